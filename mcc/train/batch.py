"""A batch: the tensors of a replica's samples by name, and how it is cut.

    tokens       int64[N, T]    what the model reads
    targets      int64[N, T]    what it is to predict there
    weights      float32[N, T]  how much each target counts (0: it is no target)
    token_types  int64[N, T]    the segment of each token (BERT)
    padding      bool[N, T]     True where there is a token
    labels       [S]            what is to be said of a sample: int64 for a class, float32 for a number
    label_weights float32[S]    how much each sample counts (0: it only fills up the batch)
    ids          int64[S]       which of its data a sample is, where the same come again in every epoch

N rows, T tokens, S samples; a sample has N / S rows (several choices), which follow one another. The first three of
the token tensors are there for language models, the labels for tasks; both for BERT's pairs.
"""

from __future__ import annotations

from torch import Tensor

Batch = dict[str, Tensor]

BY_TOKEN = frozenset(("tokens", "targets", "weights", "token_types", "padding"))


def share(first: int, count: int, replica: int, replicas: int) -> range:
    """The samples of a replica among `count` from `first`: contiguous, so that micro-batch m of the whole batch has
    the same samples however many replicas there are.

    >>> share(100, 8, replica=1, replicas=4)
    range(102, 104)
    """
    assert count % replicas == 0, f"{count} samples over {replicas} replicas"
    mine = count // replicas
    return range(first + replica * mine, first + (replica + 1) * mine)


def split(batch: Batch, count: int) -> list[Batch]:
    """`count` micro-batches of equal size, in order."""
    parts = {name: tensor.chunk(count) for name, tensor in batch.items()}
    assert all(len(chunks) == count for chunks in parts.values()), f"{count} micro-batches"
    return [{name: chunks[i] for name, chunks in parts.items()} for i in range(count)]


def ids_of(batch: Batch, count: int) -> list[tuple[int, ...]] | None:
    """The ids of the samples of each of `count` micro-batches, or None where samples have none.

    >>> import torch
    >>> ids_of({"ids": torch.tensor([7, 3, 5, 1])}, 2)
    [(7, 3), (5, 1)]
    """
    if "ids" not in batch:
        return None
    return [tuple(chunk.tolist()) for chunk in batch["ids"].chunk(count)]


def on_positions(batch: Batch, positions: Tensor) -> Batch:
    """What a context-parallel rank that has these positions [T/C] holds.

    What is said of a whole sample counts on the rank alone that has its first token, where the heads look at it.
    """
    cut = {name: tensor[:, positions] if name in BY_TOKEN else tensor for name, tensor in batch.items()}
    if "label_weights" in cut and int(positions[0]) != 0:
        cut["label_weights"] = cut["label_weights"].new_zeros(cut["label_weights"].shape)
    return cut
