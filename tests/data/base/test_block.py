"""A block on its way to a worker process."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from mcc.core.errors import MccError
from mcc.data.base.blocks import RecordSource


def test_a_worker_process_reads_a_plain_file_itself(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "one"}\n' * 1000)
    blocks = list(RecordSource([path], block_bytes=1 << 20).blocks(0))
    sent = pickle.dumps(blocks[0])
    assert len(sent) < 1000 < len(blocks[0].data) and pickle.loads(sent) == blocks[0]
    path.write_bytes(b"")
    with pytest.raises(MccError, match=r"in\.jsonl was changed while it was read"):
        _ = pickle.loads(sent).data
