"""What every step stands on: records, blocks, jobs, the folder of work under way, outputs."""
