"""Compressed files are entered in the middle, and other programs read them too."""

from __future__ import annotations

import gzip
import io
import subprocess
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from mcc.data.base.blocks import RecordSource
from mcc.data.base.members import Stretch, stretches, trailer
from mcc.data.base.part import Part, pack
from mcc.data.base.records import ReadConfig

ENDINGS = (".gz", ".zst")
LINES = [b'{"text": "line %02d"}\n' % i for i in range(100)]
BLOCKS = [b"".join(LINES[i : i + 10]) for i in range(0, 100, 10)]


def write(path: Path, blocks: list[bytes] = BLOCKS) -> Path:
    path.write_bytes(b"".join(pack(block, path.suffix) for block in blocks))
    return path


def records(source: RecordSource) -> list[tuple[str, str]]:
    part = Part({})
    blocks = (block for unit in range(source.units()) for block in source.blocks(unit))
    return [(where, record["text"]) for block in blocks for where, record in block.records(ReadConfig(), part)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_stretch_can_be_read_alone(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a.jsonl{ending}")
    found = stretches(path, len(BLOCKS[0]) + 1)
    assert [stretch.line for stretch in found] == [1, 21, 41, 61, 81]
    assert found[0].offset == 0 and sum(stretch.size for stretch in found) == path.stat().st_size
    read = ReadConfig()
    source = RecordSource([path], read, len(BLOCKS[0]) + 1)
    assert source.units() == 5
    (block, *_) = source.blocks(3)
    assert block.line == 61 and block.data.startswith(LINES[60])
    wanted = [(f"{path}:{i + 1}", f"line {i:02}") for i in range(100)]
    assert records(source) == wanted == records(RecordSource([path])) == records(RecordSource([path], read, 30))


@pytest.mark.parametrize("ending", ENDINGS)
def test_other_programs_read_them(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"a.jsonl{ending}")
    packed = path.read_bytes()
    if ending == ".gz":
        assert gzip.decompress(packed) == b"".join(BLOCKS)
        assert subprocess.run(["gzip", "-dc", path], capture_output=True, check=True).stdout == b"".join(BLOCKS)
    else:
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(packed), read_across_frames=True)
        assert reader.read() == b"".join(BLOCKS)
        one = write(tmp_path / "one.jsonl.zst", BLOCKS[:1]).read_bytes()
        assert zstandard.ZstdDecompressor().decompress(one) == BLOCKS[0]


@pytest.mark.parametrize("ending", ENDINGS)
def test_files_of_others_are_one_stretch(tmp_path: Path, ending: str) -> None:
    ours = write(tmp_path / f"a.jsonl{ending}").read_bytes()
    foreign = gzip.compress(LINES[0]) if ending == ".gz" else zstandard.ZstdCompressor().compress(LINES[0])
    path = tmp_path / f"b.jsonl{ending}"
    for content in (foreign, foreign + ours, ours + foreign, b"", ours[1:]):
        path.write_bytes(content)
        assert stretches(path, 1) == []
    path.write_bytes(foreign + ours)
    assert [text for _, text in records(RecordSource([path], None, 30))] == [
        "line 00",
        *(f"line {i:02}" for i in range(100)),
    ]
    path.write_bytes(ours + ours)  # files of ours end to end are one of ours
    assert len(stretches(path, 1)) == 20


LINE = st.binary(max_size=20).map(lambda raw: raw.replace(b"\n", b"") + b"\n")


@given(st.lists(st.lists(LINE, min_size=1), max_size=6), st.integers(1, 60), st.sampled_from(ENDINGS))
def test_stretches_cover_the_file(blocks: list[list[bytes]], least: int, ending: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / f"a{ending}", [b"".join(lines) for lines in blocks])
        found = stretches(path, least)
        size, place, line = path.stat().st_size, 0, 1
        for stretch in found:
            assert (stretch.offset, stretch.line) == (place, line) and isinstance(stretch, Stretch)
            piece = path.read_bytes()[place : place + stretch.size]
            raw = gzip.decompress(piece) if ending == ".gz" else zstandard.ZstdDecompressor().stream_reader(
                io.BytesIO(piece), read_across_frames=True).read()  # fmt: skip
            place, line = place + stretch.size, line + raw.count(b"\n")
        assert place == size


def test_half_lines_get_no_trailer() -> None:
    assert trailer(".gz", 10, b"half a line") == b"" and trailer(".bz2", 10, b"line\n") == b""
