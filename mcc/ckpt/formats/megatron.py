"""Megatron-LM's classic checkpoints: one file a rank, checkpoint versions 0 to 3, tensor x (virtual) pipeline parallel.

ROOT/latest_checkpointed_iteration.txt                      `release` or a number
ROOT/{release|iter_0000100}/mp_rank_TT[_PPP]/model_optim_rng.pt
"""

from __future__ import annotations

from pathlib import Path

from mcc.ckpt import megatron_tree as tree
from mcc.ckpt.core_names import distributed
from mcc.ckpt.format import Format, WriteOptions
from mcc.ckpt.layout import check_layout
from mcc.ckpt.megatron_args import require_megatron
from mcc.ckpt.megatron_read import MegatronSource
from mcc.ckpt.megatron_write import size_of, write_ranks
from mcc.ckpt.source import Source, expected_shapes
from mcc.ckpt.tokenizer_files import copy_tokenizer
from mcc.core.events import Reporter
from mcc.models.base.bottleneck import trained_places
from mcc.models.base.family import families


class Megatron(Format):
    """Megatron-LM's classic per-rank files, versions 0 to 3."""

    looks_for = f"{tree.TRACKER}, or folders mp_rank_00*/{tree.FILES[0]}"
    layouts = True

    def detect(self, path: Path) -> bool:
        # Megatron core's distributed checkpoints have the same tracker.
        return distributed(path) is None and ((path / tree.TRACKER).is_file() or bool(tree.rank_files(path)))

    def open(self, path: Path) -> Source:
        return MegatronSource(path)

    def drops(self, source: Source) -> tuple[str, ...]:
        codecs = trained_places(source.shapes())
        trained = (f"the codecs that were trained with the model ({', '.join(codecs)})",) if codecs else ()
        return (*source.meta.unread, *trained)

    def size_bytes(self, source: Source, options: WriteOptions) -> int:
        self._check(source, options)
        return size_of(source, options)

    def _check(self, source: Source, options: WriteOptions) -> None:
        config = source.meta.config
        require_megatron(families.get(config.family)(), config, tree.version_named(options.megatron_version))
        check_layout(config, options.tp, options.pp, options.vpp)

    def write_files(self, source: Source, folder: Path, options: WriteOptions, reporter: Reporter) -> tuple[int, int]:
        meta, config = source.meta, source.meta.config
        self._check(source, options)
        size = write_ranks(source, folder / tree.iteration_folder(meta.iteration), options, reporter)
        copy_tokenizer(meta.tokenizer, folder)
        (folder / tree.TRACKER).write_text(str(meta.iteration or "release") + "\n", encoding="utf-8")
        return len(expected_shapes(config)), size
