"""BERT's samples made slowly, one sentence and one draw at a time, from Megatron-LM's rules: the reference of tests."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from mcc.data.indexed import IndexedDataset


def twister64(seed: int) -> Iterator[int]:
    """std::mt19937_64 in plain integers."""
    full = (1 << 64) - 1
    state = [seed]
    for i in range(1, 312):
        state.append((6364136223846793005 * (state[i - 1] ^ state[i - 1] >> 62) + i) & full)
    while True:
        for i in range(312):
            y = (state[i] & 0xFFFFFFFF80000000) | (state[(i + 1) % 312] & 0x7FFFFFFF)
            state[i] = state[(i + 156) % 312] ^ y >> 1 ^ (0xB5026F5AA96619E9 if y & 1 else 0)
        for x in state:
            x ^= x >> 29 & 0x5555555555555555
            x ^= x << 17 & 0x71D67FFFEDA60000
            x ^= x << 37 & 0xFFF7EEE000000000
            yield x ^ x >> 43


def pairs(
    data: IndexedDataset, documents: range, longest: int, wanted: int, seed: int, short: float, least: int
) -> list[tuple[int, int, int]]:
    """(first sentence, one past the last, target length) of every sample, in visiting order."""
    raw = np.random.RandomState(seed)

    def target() -> int:
        if short == 0:
            return longest
        number = int(raw.randint(0, 1 << 32, dtype=np.uint32))
        return 2 + number % (longest - 1) if number % int(1 / short + 0.5) == 0 else longest

    found: list[tuple[int, int, int]] = []
    while len(found) < wanted:
        for document in documents:
            sentences = list(range(int(data.doc_idx[document]), int(data.doc_idx[document + 1])))
            too_long = len(sentences) > 1 and any(data.sizes[s] > 512 for s in sentences)
            if len(sentences) < least or too_long:
                continue
            length, run, goal = 0, 0, target()
            for position, sentence in enumerate(sentences):
                length += int(data.sizes[sentence])
                run += 1
                left = len(sentences) - 1 - position
                if left == 0 or (length >= goal and left > 1 and run >= least):
                    found.append((sentence + 1 - run, sentence + 1, goal))
                    length, run, goal = 0, 0, target()
    draws = twister64(seed + 1)
    for i in range(len(found) - 1, 0, -1):
        j = next(draws) % (i + 1)
        found[i], found[j] = found[j], found[i]
    return found


def sample(
    sentences: list[list[int]],
    goal: int,
    length: int,
    seed: int,
    pieces: dict[int, str],
    share: float = 0.15,
    longest_run: int = 3,
) -> tuple[list[int], list[int], list[int], list[int], int]:
    """(tokens, token types, targets with -1 elsewhere, 1 for each token that is no padding, swapped)."""
    names = {piece: number for number, piece in pieces.items()}
    cls, sep, mask = names["[CLS]"], names["[SEP]"], names["[MASK]"]
    draw = np.random.RandomState(seed % 2**32)
    cut = 1 if len(sentences) < 3 else int(draw.randint(1, len(sentences)))
    halves = [[t for s in sentences[:cut] for t in s], [t for s in sentences[cut:] for t in s]]
    swapped = int(draw.rand() < 0.5)
    if swapped:
        halves.reverse()
    while len(halves[0]) + len(halves[1]) > goal:
        longer = halves[0] if len(halves[0]) > len(halves[1]) else halves[1]
        longer.pop(0 if draw.rand() < 0.5 else -1)
    tokens = [cls, *halves[0], sep, *halves[1], sep]
    types = [0] * (len(halves[0]) + 2) + [1] * (len(halves[1]) + 1)
    words: list[list[int]] = []
    for place, token in enumerate(tokens):
        if token in (cls, sep):
            continue
        if words and pieces[token].startswith("##"):
            words[-1].append(place)
        else:
            words.append([place])
    limit = min(share * goal, max(1, round(len(tokens) * share)))
    chances = np.array([1 / n for n in range(1, longest_run + 1)])
    chances /= chances.sum()
    order = list(range(len(words)))
    draw.shuffle(order)
    targets = [-1] * len(tokens)
    out, predicted = list(tokens), 0
    for word in order:
        if predicted >= limit:
            break
        run = int(draw.choice(np.arange(1, longest_run + 1), p=chances))
        places: list[int] = []
        while run > 0:
            places = [place for one in words[word : word + run] for place in one]
            if predicted + len(places) <= limit:
                break
            run -= 1
        if run == 0 or any(targets[place] != -1 for place in places):
            continue
        for place in places:
            targets[place] = tokens[place]
            predicted += 1
            if draw.rand() < 0.8:
                out[place] = mask
            elif draw.rand() >= 0.5:
                out[place] = int(draw.randint(0, len(pieces)))
    filler = [0] * (length - len(tokens))
    return out + filler, types + filler, targets + [-1] * len(filler), [1] * len(tokens) + filler, swapped
