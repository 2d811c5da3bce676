"""DeepSpeed's checkpoints, laid out by a script of the tests', give the tensors that went into them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from mcc.ckpt.convert import convert
from mcc.ckpt.format import detect, formats, open_checkpoint
from mcc.ckpt.load import load_model, logits
from mcc.ckpt.source import Source
from mcc.core.errors import MccError, UsageError
from mcc.models.base.config import ModelConfig
from tests.ckpt import deepspeed_run as run
from tests.ckpt.models import SMALL, InMemory, tokens_for, transformers_gpt2
from tests.ckpt.test_foreign import Hostile

CLIENT = {"exp_avg": lambda w: w * 2 + 1, "exp_avg_sq": lambda w: w * w}
LAYER = {
    "norm1": "input_layernorm",
    "attention.qkv": "self_attention.query_key_value", "attention.out": "self_attention.dense",
    "norm2": "post_attention_layernorm", "mlp.up": "mlp.dense_h_to_4h", "mlp.down": "mlp.dense_4h_to_h",
}  # fmt: skip
CUT = {"attention.qkv": 0, "mlp.up": 0, "attention.out": 1, "mlp.down": 1}  # the dim of the weight; of a bias only 0


def state_of(tensors: dict[str, Tensor]) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    return {name: (w, CLIENT["exp_avg"](w), CLIENT["exp_avg_sq"](w)) for name, w in tensors.items()}


def grouped(state: dict[str, Any]) -> list[dict[str, Any]]:
    """Decay on matrices, none on vectors: two groups, as most runs have."""
    matrices = {name: value for name, value in state.items() if value[0].dim() > 1}
    return [matrices, {name: value for name, value in state.items() if name not in matrices}]


def assert_holds(source: Source, weights: Source) -> None:
    """`source` has the weights, in full precision, and the moments that `state_of` made of them."""
    assert source.slots() == ("exp_avg", "exp_avg_sq")
    assert source.shapes() == weights.shapes()
    for name in weights.shapes():
        whole = weights.read(name)
        assert source.dtypes()[name] == torch.float32
        assert torch.equal(source.read(name), whole), name
        for slot, change in CLIENT.items():
            assert torch.equal(source.read_slot(slot, name), change(whole)), (slot, name)


def transformers_run(root: Path, stage: int, world: int, **options: Any) -> Any:
    """A GPT-2 of transformers under ZeRO, its masters finer than the module's bfloat16."""
    model = transformers_gpt2()
    model.config.save_pretrained(root)
    state = state_of({name: p.detach() for name, p in model.named_parameters()})
    module = {name: p.detach().bfloat16() for name, p in model.state_dict().items()}
    shared = {"lm_head.weight": "transformer.wte.weight"}
    folder = root / f"global_step{run.STEPS}"
    module = {name: torch.empty(0) for name in module} if stage == 3 else module
    run.write_rank(folder, grouped(state), stage=stage, world=world, module=module, shared_params=shared, **options)
    return model


@pytest.mark.parametrize(
    ("stage", "world", "options"),
    [
        *((1, 1, {}), (1, 3, {"elastic": True}), (2, 2, {"bf16": False}), (2, 5, {}), (2, 3, {"align": 64})),
        *((3, 1, {}), (3, 3, {}), (3, 4, {"sub_group": 100})),
    ],
)  # fmt: skip
def test_zero_of_a_transformers_model(tmp_path: Path, stage: int, world: int, options: dict[str, Any]) -> None:
    model = transformers_run(tmp_path / "run", stage, world, **options)
    model.save_pretrained(tmp_path / "hf")
    assert detect(tmp_path / "run").name == "deepspeed"
    source = open_checkpoint(tmp_path / "run")
    assert_holds(source, open_checkpoint(tmp_path / "hf"))
    meta = source.meta
    assert (meta.iteration, meta.layout.dp, meta.layout.tp, meta.unread) == (run.STEPS, world, 1, ())
    assert (meta.extra["zero"], meta.extra["weights_from"]) == (stage, "fp32 masters")
    assert meta.extra["optimizer"] == {"name": "adam", "updates": run.STEPS}
    tokens = tokens_for(301)
    with torch.no_grad():
        assert torch.allclose(logits(load_model(tmp_path / "run"), tokens), model(tokens).logits, atol=1e-4)


def test_moments_go_on_into_training(tmp_path: Path) -> None:
    """Converted to `mcc`, a run has all that --resume needs: masters, moments, updates, samples."""
    transformers_run(tmp_path / "run", 2, 2)
    convert(tmp_path / "run", tmp_path / "ours", "mcc")
    ours = open_checkpoint(tmp_path / "ours")
    theirs = open_checkpoint(tmp_path / "run")
    assert ours.slots() == theirs.slots()
    name = "layers.1.attention.qkv.weight"
    assert torch.equal(ours.read_slot("exp_avg_sq", name), theirs.read_slot("exp_avg_sq", name))
    assert ours.meta.extra["optimizer"] == {"name": "adam", "updates": run.STEPS}
    assert ours.meta.extra["consumed_samples"] == run.STEPS * 8


def test_weights_without_the_optimizer_are_the_modules(tmp_path: Path) -> None:
    model = transformers_run(tmp_path / "run", 1, 2)
    for file in (tmp_path / "run" / f"global_step{run.STEPS}").glob("*optim_states.pt"):
        file.unlink()
    source = open_checkpoint(tmp_path / "run")
    assert source.slots() == ()
    assert source.meta.extra["weights_from"] == "the module"
    assert torch.equal(source.read("embedding.tokens.weight"), model.transformer.wte.weight.bfloat16())


def test_frozen_parameters_are_in_the_models_files(tmp_path: Path) -> None:
    for stage, world in ((2, 2), (3, 2)):
        model = transformers_gpt2()
        root = tmp_path / str(stage)
        model.config.save_pretrained(root)
        tensors = {name: p.detach() for name, p in model.named_parameters()}
        frozen = {name: tensors.pop(name) for name in list(tensors) if ".wte." in name or ".wpe." in name}
        shapes = {name: tensor.shape for name, tensor in frozen.items()}
        folder = root / "global_step1"
        run.write_rank(folder, [state_of(tensors)], stage=stage, world=world, module={}, frozen_param_shapes=shapes)
        for file in folder.glob("*model_states.pt"):
            held = torch.load(file, weights_only=False)
            rank = int(file.name.split("_")[3]) if stage == 3 else 0
            held["frozen_param_fragments"] = {
                name: t.reshape(-1).tensor_split(world)[rank].clone() if stage == 3 else t for name, t in frozen.items()
            }
            torch.save(held, file)
        source = open_checkpoint(root)
        assert torch.equal(source.read("embedding.tokens.weight"), model.transformer.wte.weight)
        assert torch.equal(source.read("embedding.positions.weight"), model.transformer.wpe.weight)
        assert source.slots() == ()  # not every parameter has moments


def megatron_shards(
    model: InMemory, tp: int, layer: Callable[[int], str], named: dict[str, str]
) -> list[dict[str, Tensor]]:
    """Each tensor-parallel rank's tensors of a GPT-2 or Megatron BERT, by their names there."""
    ranks: list[dict[str, Tensor]] = [{} for _ in range(tp)]
    padded = model.meta.config.padded_vocab_size(tp)
    for name, whole in model.values.items():
        parts = name.split(".")
        dim: int | None = None
        if parts[0] == "layers":
            place, leaf = ".".join(parts[2:-1]), parts[-1]
            key = f"{layer(int(parts[1]))}{LAYER[place]}.{leaf}"
            dim = CUT.get(place)
            dim = None if leaf == "bias" and dim == 1 else dim
        else:
            key = named[name]
            if whole.shape[0] == model.meta.config.vocab_size:
                whole, dim = torch.cat([whole, torch.zeros(padded - len(whole), *whole.shape[1:])]), 0
        for rank, part in enumerate([whole] * tp if dim is None else whole.chunk(tp, dim)):
            ranks[rank][key] = part.clone()
    return ranks


NAMED = {
    "embedding.tokens.weight": "language_model.embedding.word_embeddings.weight",
    "embedding.positions.weight": "language_model.embedding.position_embeddings.weight",
    "embedding.types.weight": "language_model.embedding.tokentype_embeddings.weight",
    "final_norm.weight": "language_model.encoder.final_layernorm.weight",
    "final_norm.bias": "language_model.encoder.final_layernorm.bias",
    "top.transform.dense.weight": "lm_head.dense.weight", "top.transform.dense.bias": "lm_head.dense.bias",
    "top.transform.norm.weight": "lm_head.layernorm.weight", "top.transform.norm.bias": "lm_head.layernorm.bias",
    "top.bias": "lm_head.bias",
    "top.pooler.weight": "language_model.pooler.dense.weight", "top.pooler.bias": "language_model.pooler.dense.bias",
    "top.order.weight": "binary_head.weight", "top.order.bias": "binary_head.bias",
}  # fmt: skip


@pytest.mark.parametrize(
    ("family", "head", "tp"), [("gpt2", "lm", 2), ("gpt2", "lm", 1), ("megatron-bert", "pretraining", 2)]
)
@pytest.mark.parametrize("stage", [1, 3])
def test_megatron_deepspeed_without_a_pipeline(tmp_path: Path, family: str, head: str, tp: int, stage: int) -> None:
    config = ModelConfig(
        family=family, head=head, num_layers=2, hidden_size=32, num_attention_heads=4, seq_length=16, vocab_size=301,
        make_vocab_size_divisible_by=8,
    )  # fmt: skip
    model = InMemory(config)
    args = run.gpt_args(tensor_model_parallel_size=tp, num_layers=2)
    info = {"universal_checkpoint_version": 0.2, "original_vocab_size": 301}
    for rank, tensors in enumerate(megatron_shards(model, tp, "language_model.encoder.layers.{}.".format, NAMED)):
        tree = {"language_model": {"encoder": {}}, "lm_head": {}}  # as the module nests them; masters count
        folder = tmp_path / "run" / "global_step7"
        run.write_rank(
            folder, grouped(state_of(tensors)), stage=stage, world=2, mp=rank, module=tree, args=args, iteration=9,
            checkpoint_version=3.0, universal_checkpoint_info=info,
        )  # fmt: skip
    (tmp_path / "run" / "latest_checkpointed_iteration.txt").write_text("9")
    source = open_checkpoint(tmp_path / "run")
    assert_holds(source, model)
    assert (source.meta.config.family, source.meta.config.head) == (family, head)
    assert (source.meta.layout.tp, source.meta.layout.dp, source.meta.iteration) == (tp, 2, 9)
    assert source.meta.config.vocab_size == 301
    assert source.meta.padded_vocab_size == config.padded_vocab_size(tp)


def pipeline_run(root: Path, config: ModelConfig, tp: int, pp: int, zero: bool = True, **more: Any) -> InMemory:
    """Layer files and ZeRO-1 of Megatron-DeepSpeed's GPTModelPipe: layer 0 is a function, 1 the embedding."""
    model, tied = InMemory(config), not config.untie_embeddings_and_output_weights
    last = config.num_layers + 2
    first = "tied_modules.embed." if tied else "1."
    named = {
        "embedding.tokens.weight": f"{first}word_embeddings.weight",
        "embedding.positions.weight": f"{first}position_embeddings.weight",
        "final_norm.weight": f"{last}.weight", "final_norm.bias": f"{last}.bias",
        "output.weight": f"{last + 1}.lm_head.weight",
    }  # fmt: skip
    args = run.gpt_args(
        tensor_model_parallel_size=tp, pipeline_model_parallel_size=pp, num_layers=config.num_layers,
        untie_embeddings_and_output_weights=not tied, **more,
    )  # fmt: skip
    folder = root / "global_step7"
    per = config.num_layers // pp
    for rank, tensors in enumerate(megatron_shards(model, tp, lambda i: f"{i + 2}.", named)):
        files: dict[int, dict[str, Tensor]] = {}
        stages: list[dict[str, Tensor]] = [{} for _ in range(pp)]
        for name, tensor in tensors.items():
            number, key = (1, name.removeprefix(first)) if name.startswith(first) else name.split(".", 1)
            files.setdefault(int(number), {})[key] = tensor
            stages[min(pp - 1, max(0, (int(number) - 2) // per))][name] = tensor
        if tied:
            files[last + 1] = files[1]
            stages[-1] = {name: t for name, t in tensors.items() if name.startswith(first)} | stages[-1]
        for number, held in files.items():
            run.save(
                {key: t.bfloat16() for key, t in held.items()},
                folder / f"layer_{number:02d}-model_{rank:02d}-model_states.pt",
            )
        for stage, held in enumerate(stages):
            mp = stage * tp + rank
            run.write_rank(
                folder, [state_of(held)], stage=1, world=2, mp=mp, args=args, iteration=7, checkpoint_version=3.0,
                universal_checkpoint_info={"original_vocab_size": 301},
            )  # fmt: skip
    if not zero:
        for file in folder.glob("*optim_states.pt"):
            file.unlink()
    return model


@pytest.mark.parametrize(("tp", "pp", "untied"), [(1, 1, False), (2, 2, False), (2, 2, True), (1, 4, False)])
def test_pipelines(tmp_path: Path, tp: int, pp: int, untied: bool) -> None:
    config = ModelConfig(
        num_layers=4, hidden_size=32, num_attention_heads=4, seq_length=16, vocab_size=301,
        make_vocab_size_divisible_by=8, untie_embeddings_and_output_weights=untied,
    )  # fmt: skip
    model = pipeline_run(tmp_path / "a", config, tp, pp)
    source = open_checkpoint(tmp_path / "a")
    assert_holds(source, model)
    assert (source.meta.layout.tp, source.meta.layout.pp, source.meta.unread) == (tp, pp, ())
    pipeline_run(tmp_path / "b", config, tp, pp, zero=False)
    layers = open_checkpoint(tmp_path / "b")  # the weights alone, from the layers' files
    assert layers.slots() == ()
    for name, tensor in model.values.items():
        assert torch.equal(layers.read(name), tensor.bfloat16()), name


def test_llama_of_megatron_deepspeed(tmp_path: Path) -> None:
    """Shared key/value heads, rotary positions, and SwiGLU's halves on every tensor-parallel rank."""
    config = ModelConfig(
        family="llama", num_layers=2, hidden_size=32, num_attention_heads=4, num_query_groups=2, ffn_hidden_size=48,
        seq_length=16, vocab_size=301, make_vocab_size_divisible_by=8, untie_embeddings_and_output_weights=True,
    )  # fmt: skip
    model = InMemory(config)
    named = {**NAMED, "output.weight": "language_model.output_layer.weight"}
    plain = InMemory(config)
    gates = {i: plain.values.pop(f"layers.{i}.mlp.gate.weight") for i in range(2)}
    ups = {i: plain.values.pop(f"layers.{i}.mlp.up.weight") for i in range(2)}
    layer = "language_model.encoder.layers.{}.".format
    args = run.gpt_args(
        num_layers=2, num_key_value_heads=2, ffn_hidden_size=48, swiglu=True, normalization="rmsnorm",
        add_position_embedding=False, use_rotary_position_embeddings=True, add_bias_linear=False,
        untie_embeddings_and_output_weights=True, tensor_model_parallel_size=2,
    )  # fmt: skip
    shards = megatron_shards(plain, 2, layer, named)
    for rank, tensors in enumerate(shards):
        for i in range(2):
            halves = [gates[i].chunk(2)[rank], ups[i].chunk(2)[rank]]
            tensors[f"{layer(i)}mlp.dense_h_to_4h.weight"] = torch.cat(halves)
        run.write_rank(
            tmp_path / "run" / "global_step7", [state_of(tensors)], stage=2, world=2, mp=rank, args=args, iteration=7,
            checkpoint_version=3.0, universal_checkpoint_info={"original_vocab_size": 301},
        )  # fmt: skip
    source = open_checkpoint(tmp_path / "run")
    assert_holds(source, model)
    whole = {key: torch.cat([shards[0][key], shards[1][key]], dim) for key, dim in _cuts(shards[0]).items()}
    for i in range(2):  # whole, the halves stand one under the other again
        whole[f"{layer(i)}mlp.dense_h_to_4h.weight"] = torch.cat([gates[i], ups[i]])
    state = state_of({key: whole.get(key, t) for key, t in shards[0].items()})
    info = {"original_vocab_size": 301}
    folder = tmp_path / "universal" / "global_step7_universal"
    run.write_universal(folder, _unpadded(state), args=args, iteration=7, universal_checkpoint_info=info)
    universal = open_checkpoint(tmp_path / "universal")
    assert_holds(universal, model)
    assert universal.meta.extra["zero"] == "universal"


def _cuts(names: dict[str, Tensor]) -> dict[str, int]:
    rows = ("query_key_value.weight", "word_embeddings.weight", "output_layer.weight")
    found = {name: 0 for name in names if name.endswith(rows)}
    return found | {name: 1 for name in names if name.endswith(("dense.weight", "4h_to_h.weight"))}


def _unpadded(state: dict[str, Any]) -> dict[str, Any]:
    vocabulary = ("word_embeddings.weight", "output_layer.weight")
    return {k: tuple(t[:301] for t in v) if k.endswith(vocabulary) else v for k, v in state.items()}


@pytest.mark.parametrize("flat", [False, True])
def test_universal_of_a_transformers_model(tmp_path: Path, flat: bool) -> None:
    model = transformers_gpt2()
    model.save_pretrained(tmp_path / "hf")
    model.config.save_pretrained(tmp_path / "run")
    state = state_of({name: p.detach() for name, p in model.named_parameters()})
    run.write_universal(tmp_path / "run" / "global_step7_universal", state, flat=flat)
    assert_holds(open_checkpoint(tmp_path / "run"), open_checkpoint(tmp_path / "hf"))
    assert_holds(open_checkpoint(tmp_path / "run" / "global_step7_universal"), open_checkpoint(tmp_path / "hf"))


def refused(path: Path) -> str:
    with pytest.raises(MccError) as error:
        source = open_checkpoint(path)
        for name in source.shapes():
            source.read(name)
            for slot in source.slots():
                source.read_slot(slot, name)
    assert "\n" not in error.value.what
    return error.value.what


@pytest.mark.parametrize("stage", [2, 3])
def test_damaged_and_inconsistent_worlds_are_named(tmp_path: Path, stage: int) -> None:
    transformers_run(tmp_path / "good", stage, 3)
    tag = f"global_step{run.STEPS}"
    optim = "bf16_zero_pp_rank_{}_mp_rank_00_optim_states.pt".format
    model = "zero_pp_rank_0_mp_rank_00_model_states.pt" if stage == 3 else "mp_rank_00_model_states.pt"

    def broken(change: Callable[[Path], None]) -> str:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        change(tmp_path / "bad" / tag)
        return refused(tmp_path / "bad")

    def rewrite(name: str, change: Callable[[Any], None]) -> Callable[[Path], None]:
        def apply(folder: Path) -> None:
            names = ("deepspeed.runtime.fp16.loss_scaler.LossScaler", "deepspeed.runtime.zero.config.ZeroStageEnum")
            with run.foreign(*names):
                held = torch.load(folder / name, weights_only=False)
                change(held)
                torch.save(held, folder / name)

        return apply

    def cut(name: str) -> Callable[[Path], None]:
        return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)

    def shorter(held: Any) -> None:
        groups = held["optimizer_state_dict"]["fp32_flat_groups" if stage == 3 else "single_partition_of_fp32_groups"]
        groups[0] = groups[0][:-100].clone()

    def world(held: Any) -> None:
        held["optimizer_state_dict"]["partition_count"] = 4 if stage == 3 else [4, 4]

    def no_moment(held: Any) -> None:
        state = held["optimizer_state_dict"]
        state = state.get("base_optimizer_state", state.get("optimizer_state_dict"))["state"]
        del state[1]["exp_avg"]

    def no_shapes(held: Any) -> None:
        del held["param_shapes"]

    def other_model(held: Any) -> None:
        held["param_shapes"][0]["transformer.wte.weight"] = torch.Size((299, 32))

    what = broken(lambda folder: (folder / optim(1)).unlink())
    assert what.startswith("missing shard") and optim(1) in what
    what = broken(lambda folder: (folder / optim(2)).unlink())  # the last: told by the model's file
    assert what.startswith("missing shard") and optim(2) in what
    assert f"{optim(1)} is truncated" in broken(cut(optim(1)))
    assert f"{model} is truncated" in broken(cut(model))
    what = broken(rewrite(optim(2 if stage == 3 else 0), shorter))
    assert "optim_states.pt" in what and ("groups are not as long" in what or "ends within parameter" in what)
    assert "of 4 data-parallel ranks, but there are files of 3" in broken(rewrite(optim(0), world))
    assert f"{optim(1)} has no exp_avg of group 1" in broken(rewrite(optim(1), no_moment))
    assert f"{model} has no param_shapes" in broken(rewrite(model, no_shapes))
    assert "optim_states.pt" in broken(rewrite(model, other_model))
    assert "does not tell what model it is of" in broken(lambda folder: (folder.parent / "config.json").unlink())
    what = broken(lambda folder: (folder / "layer_0_expert_1_mp_rank_00_model_states.pt").write_bytes(b""))
    assert "holds experts" in what


def test_missing_pipeline_files_are_named(tmp_path: Path) -> None:
    pipeline_run(tmp_path / "good", SMALL, 2, 2)

    def without(name: str) -> str:
        shutil.rmtree(tmp_path / "bad", ignore_errors=True)
        shutil.copytree(tmp_path / "good", tmp_path / "bad")
        (tmp_path / "bad" / "global_step7" / name).unlink()
        return refused(tmp_path / "bad")

    assert "mp_rank_03_model_states.pt: model-parallel rank 3 of TP 2 x PP 2" in without("mp_rank_03_model_states.pt")
    assert "mp_rank_01_model_states.pt: model-parallel rank 1" in without("mp_rank_01_model_states.pt")
    assert "layer_04-model_01-model_states.pt" in without("layer_04-model_01-model_states.pt")
    assert "zero_pp_rank_1_mp_rank_02" in without("bf16_zero_pp_rank_1_mp_rank_02_optim_states.pt")


@pytest.mark.parametrize("where", ["mp_rank_00_model_states.pt", "bf16_zero_pp_rank_1_mp_rank_00_optim_states.pt"])
def test_hostile_files_are_refused_by_name(tmp_path: Path, where: str) -> None:
    transformers_run(tmp_path / "run", 2, 2)
    mark = tmp_path / "it ran"
    attack = Hostile(os.system, f"touch '{mark}'")
    torch.save({"module": attack, "optimizer_state_dict": attack}, tmp_path / "run" / f"global_step{run.STEPS}" / where)
    what = refused(tmp_path / "run")
    assert where in what and "system, which no checkpoint needs: refused" in what
    assert not mark.exists()


def test_hostile_universal_and_layer_files_are_refused(tmp_path: Path) -> None:
    mark = tmp_path / "it ran"
    attack = {"param": Hostile(os.system, f"touch '{mark}'")}
    model = transformers_gpt2()
    model.config.save_pretrained(tmp_path / "run")
    folder = tmp_path / "run" / "global_step7_universal"
    run.write_universal(folder, state_of({name: p.detach() for name, p in model.named_parameters()}))
    torch.save(attack, folder / "zero" / "transformer.ln_f.bias" / "exp_avg.pt")
    assert "exp_avg.pt mentions" in refused(tmp_path / "run")
    pipeline_run(tmp_path / "pipe", SMALL, 1, 1)
    torch.save(attack, tmp_path / "pipe" / "global_step7" / "layer_03-model_00-model_states.pt")
    assert "layer_03-model_00-model_states.pt mentions" in refused(tmp_path / "pipe")
    assert not mark.exists()


def test_universal_shards_that_are_damaged(tmp_path: Path) -> None:
    model = transformers_gpt2()
    model.config.save_pretrained(tmp_path)
    folder = tmp_path / "global_step7_universal"
    run.write_universal(folder, state_of({name: p.detach() for name, p in model.named_parameters()}))
    name = folder / "zero" / "transformer.h.1.ln_1.bias"
    torch.save({"param": torch.ones(31)}, name / "exp_avg.pt")
    assert f"{name / 'exp_avg.pt'}: its tensor has shape [31], not [32]" in refused(tmp_path)
    (name / "fp32.pt").unlink()
    assert f"missing file {name / 'fp32.pt'}" in refused(tmp_path)
    shutil.rmtree(name)
    assert "has no tensor transformer.h.1.ln_1.bias" in refused(tmp_path)


def test_writing_is_refused_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="format deepspeed is read, not written: only DeepSpeed knows"):
        formats.get("deepspeed")().write(InMemory(), tmp_path / "out")
    formats.get("mcc-safetensors")().write(InMemory(), tmp_path / "a")
    with pytest.raises(UsageError, match="read, not written"):
        convert(tmp_path / "a", tmp_path / "out", "deepspeed")
    assert not (tmp_path / "out").exists()
