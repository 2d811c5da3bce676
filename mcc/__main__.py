"""`python -m mcc` is the `mcc` command; torchrun and Slurm start ranks through it."""

from mcc.cli.main import run

if __name__ == "__main__":
    run()
