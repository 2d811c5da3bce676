"""The memory of `mcc ckpt`."""

from __future__ import annotations

import os
import subprocess
import sys

_CHILD = """
import os, sys
from mcc.cli.ckpt import _before
_before()
assert "torch" not in sys.modules, "it is too late"
import torch
print(os.environ["THP_MEM_ALLOC_ENABLE"])
"""


def test_huge_pages_are_asked_for_before_torch_is_loaded() -> None:
    child = {name: value for name, value in os.environ.items() if name != "THP_MEM_ALLOC_ENABLE"}
    done = subprocess.run([sys.executable, "-c", _CHILD], capture_output=True, text=True, check=True, env=child)
    assert done.stdout == "1\n"
