"""What pytest leaves uncollected here."""

from __future__ import annotations

from importlib.util import find_spec

# The GPU's kernels cannot be imported, and have no examples to run, where Triton is not installed.
collect_ignore = [] if find_spec("triton") else ["mcc/train/compress/kernels/gpu.py"]
