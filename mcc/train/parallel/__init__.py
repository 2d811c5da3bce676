"""The parallel axes: the mesh of ranks, tensor, pipeline and data parallelism."""
