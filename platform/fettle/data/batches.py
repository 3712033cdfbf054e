"""One step's examples to the tensors of each worker's micro-batches, packed so that no example sees another.

Letters: R rows, T tokens of the longest row.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

IGNORE = -100
_EVEN = 20_000
"""Tokens of a row's length at which attention takes as long as all else: of a model of a billion weights on a CPU,
where attention sees whole rows. Of small models it does sooner; kernels that skip other examples never get there."""


class Encoded(Protocol):
    """An example as token ids, integer [T], with the loss-bearing ones marked, bool [T]."""

    @property
    def input_ids(self) -> np.ndarray: ...

    @property
    def loss_mask(self) -> np.ndarray: ...


class OfParts(Encoded, Protocol):
    """An example of several parts, such as the answers of a preference, and a value of each, float [K]."""

    @property
    def parts(self) -> Sequence[np.ndarray]: ...

    @property
    def part_masks(self) -> Sequence[np.ndarray]: ...

    @property
    def values(self) -> np.ndarray | None: ...


@dataclass(frozen=True)
class _Part:
    input_ids: np.ndarray
    loss_mask: np.ndarray


def share_out(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Positions of `lengths` over `bins` lists of nearly equal sums: longest first, each to the emptiest.

    Graham 1969, longest processing time first. Some lists stay empty where there are fewer examples than bins.
    """
    out: list[list[int]] = [[] for _ in range(bins)]
    emptiest = [(0, number) for number in range(bins)]
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        tokens, number = emptiest[0]
        out[number].append(position)
        heapq.heapreplace(emptiest, (tokens + lengths[position], number))
    return [sorted(items) for items in out]


def pack(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Positions of `lengths` in rows of nearly equal length, as many rows as cost least: padding costs in full, and a
    token of a row that is longer by _EVEN costs twice as much, for its attention.

    Rows of at most twice `max_length` are tried, since a few long examples do not divide evenly over shorter ones.
    Best-fit decreasing into rows of `max_length`, the usual way, leaves the last row half empty: over Alpaca's steps
    mostly 86 to 96 % full on average where these are 98 to 99.8 % (`benchmarks/data_tokens.py`).
    """
    total, longest = sum(lengths), max(lengths)
    fewest = -(-total // (2 * max_length))
    tried = [share_out(lengths, num_rows) for num_rows in range(max(fewest, total // longest), fewest - 1, -1)]
    return min(tried, key=lambda rows: len(rows) * (width := _width(rows, lengths)) * (_EVEN + width))


def _width(rows: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    return max(sum(lengths[position] for position in row) for row in rows)


def collate(examples: Sequence[Encoded], *, max_length: int, packing: bool, pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `labels`, `position_ids`, each [R, T] int64, of one micro-batch.

    Positions restart at every example, which together with `use_cache=False` and no attention mask makes transformers
    build a block-diagonal mask (train.md 0b: otherwise the examples silently see each other). The first token of an
    example is never a label: nothing before it predicts it. Padding is an example of its own that bears no loss. No
    examples at all give one row of padding, so that this worker still takes part in its group's collectives.
    """
    return in_rows(examples, max_length=max_length, packing=packing, pad_id=pad_id)[0]


def collate_parts(
    examples: Sequence[OfParts], *, max_length: int, packing: bool, pad_id: int
) -> dict[str, torch.Tensor]:
    """As `collate`, of every part of some examples, with `part_of` [R, T] int64: which part each token is of, counted
    over all examples, -1 where it is padding; and `ends` [N, 2] int64: row and column of each part's last token.

    The labels are called `token_labels`.
    """
    parts = [
        _Part(ids, mask) for example in examples for ids, mask in zip(example.parts, example.part_masks, strict=True)
    ]
    batch, places = in_rows(parts, max_length=max_length, packing=packing, pad_id=pad_id)
    part_of = torch.full(batch["input_ids"].shape, -1, dtype=torch.int64)
    for number, (row, begin, end) in enumerate(places):
        part_of[row, begin:end] = number
    ends = torch.tensor([[row, end - 1] for row, _, end in places], dtype=torch.int64).reshape(-1, 2)
    batch["token_labels"] = batch.pop("labels")
    return batch | {"part_of": part_of, "ends": ends}


def scored_at(batch: dict[str, torch.Tensor], pad_id: int) -> torch.Tensor:
    """`ends` [N, 2] of what `collate_parts` gives, each moved back over tokens that are `pad_id`, at most to the first
    of its text."""
    ends = batch["ends"].clone()
    for end in ends:
        row, column = end.tolist()
        while batch["input_ids"][row, column] == pad_id and batch["position_ids"][row, column] > 0:
            column -= 1
        end[1] = column
    return ends


def in_rows(
    examples: Sequence[Encoded], *, max_length: int, packing: bool, pad_id: int
) -> tuple[dict[str, torch.Tensor], list[tuple[int, int, int]]]:
    """(as `collate`; the row, first and one past the last column of each example)."""
    lengths = [len(example.input_ids) for example in examples]
    rows = pack(lengths, max_length) if packing and examples else [[i] for i in range(len(examples))]
    width = _width(rows, lengths) if rows else 2
    shape = (max(1, len(rows)), width)
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    labels = torch.full(shape, IGNORE, dtype=torch.int64)
    position_ids = torch.zeros(shape, dtype=torch.int64)
    places = [(0, 0, 0)] * len(examples)
    for number, row in enumerate(rows or [[]]):
        at = 0
        for position in row:
            example = examples[position]
            end = at + lengths[position]
            ids = torch.from_numpy(example.input_ids.astype(np.int64))
            bears_loss = torch.from_numpy(example.loss_mask.copy())
            bears_loss[0] = False
            input_ids[number, at:end] = ids
            labels[number, at:end] = torch.where(bears_loss, ids, IGNORE)
            position_ids[number, at:end] = torch.arange(end - at)
            places[position] = (number, at, end)
            at = end
        position_ids[number, at:] = torch.arange(width - at)
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}, places
