"""Hostile pickles: refused by name, and nothing of them runs."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from mcc.ckpt.dcp import METADATA, DcpFolder
from mcc.ckpt.foreign import load_foreign
from mcc.ckpt.format import open_checkpoint
from mcc.core.errors import MccError


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def attacks(mark: Path) -> dict[str, Hostile]:
    return {
        "posix.system": Hostile(os.system, f"touch {mark}"),
        "builtins.eval": Hostile(eval, f"open({str(mark)!r}, 'w')"),
        "builtins.exec": Hostile(exec, f"open({str(mark)!r}, 'w')"),
        "builtins.getattr": Hostile(getattr, "text", "upper"),
        "io.open": Hostile(io.open, str(mark), "w"),
        "torch.load": Hostile(torch.load, str(mark)),
    }


@pytest.mark.parametrize("name", list(attacks(Path())))
@pytest.mark.parametrize("form", ["zip", "before torch 1.6"])
def test_hostile_file_is_refused_by_name(tmp_path: Path, name: str, form: str) -> None:
    mark, file = tmp_path / "it ran", tmp_path / "model.pt"
    value = {"model": {"weight": torch.ones(3)}, "args": attacks(mark)[name]}
    torch.save(value, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(MccError) as refused:
        load_foreign(file)
    module, _, function = name.rpartition(".")
    assert function in refused.value.what or module in refused.value.what
    assert str(file) in refused.value.what
    assert "weights_only=False" not in str(refused.value)
    assert not mark.exists()


def test_checkpoints_go_through_it(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    rank = tmp_path / "mp_rank_00"
    rank.mkdir()
    torch.save({"model": {}, "args": Hostile(os.system, f"touch '{mark}'")}, rank / "model_optim_rng.pt")
    with pytest.raises(MccError, match=r"posix\.system|os\.system|nt\.system"):
        open_checkpoint(tmp_path)

    hf = tmp_path / "hf"
    hf.mkdir()
    (hf / "config.json").write_text('{"model_type": "gpt2", "vocab_size": 8, "n_embd": 8, "n_head": 2}')
    torch.save({"x": Hostile(os.system, f"touch '{mark}'")}, hf / "pytorch_model.bin")
    with pytest.raises(MccError, match="system"):
        open_checkpoint(hf)
    assert not mark.exists()


def test_the_attack_would_work(tmp_path: Path) -> None:
    """The test above can fail: unrestricted unpickling does run it."""
    mark = tmp_path / "it ran"
    pickle.loads(pickle.dumps(Hostile(os.system, f"touch '{mark}'")))
    assert mark.exists()


@pytest.mark.parametrize("protocol", [2, 4])
def test_hostile_pickle_of_another_protocol(tmp_path: Path, protocol: int) -> None:
    mark, file = tmp_path / "it ran", tmp_path / "model.pt"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model/data.pkl", pickle.dumps(Hostile(os.system, f"touch '{mark}'"), protocol))
        archive.writestr("model/version", "3\n")
    with pytest.raises(MccError, match="system"):
        load_foreign(file)
    assert not mark.exists()


def test_class_of_a_known_system_is_not_imported(tmp_path: Path) -> None:
    """`megatron.x` stands in for nothing: arguments are dropped, and a call through it does nothing."""
    file = tmp_path / "model.pt"
    attack = b"\x80\x02cmegatron.evil\nrun\nX\x05\x00\x00\x00rm -r\x85R."
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("model/data.pkl", attack)
        archive.writestr("model/version", "3\n")
    value = load_foreign(file)
    assert type(value).__name__ == "run"
    assert vars(value) == {}


@pytest.mark.parametrize("content", [b"", b"PK", b"not a pickle at all", bytes(range(256)) * 8])
def test_file_that_is_no_checkpoint(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.pt"
    file.write_bytes(content)
    with pytest.raises(MccError, match=r"not a torch\.save file, or is truncated"):
        load_foreign(file)


def test_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "model.pt"
    file.write_bytes(b"anything")
    monkeypatch.setattr(Path, "open", denied)
    with pytest.raises(MccError, match=r"model\.pt cannot be read: Permission denied"):
        load_foreign(file)


def test_hostile_metadata_of_a_training_checkpoint(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    (tmp_path / METADATA).write_bytes(pickle.dumps(Hostile(os.system, f"touch '{mark}'")))
    with pytest.raises(MccError, match=r"mentions (posix|nt)\.system, which describes no tensors: refused"):
        DcpFolder(tmp_path)
    assert not mark.exists()
