"""One step's examples to the tensors of each worker's micro-batches, packed so that no example sees another.

Letters: R rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch

IGNORE = -100


class Encoded(Protocol):
    """An example as token ids, integer [T], with the loss-bearing ones marked, bool [T]."""

    @property
    def input_ids(self) -> np.ndarray: ...

    @property
    def loss_mask(self) -> np.ndarray: ...


def share_out(lengths: Sequence[int], bins: int) -> list[list[int]]:
    """Positions of `lengths` over `bins` lists of nearly equal sums: longest first, each to the emptiest.

    Graham 1969, longest processing time first. Some lists stay empty where there are fewer examples than bins.
    """
    sums, out = [0] * bins, [[] for _ in range(bins)]  # type: list[int], list[list[int]]
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        target = min(range(bins), key=lambda b: (sums[b], b))
        out[target].append(position)
        sums[target] += lengths[position]
    return [sorted(items) for items in out]


def best_fit(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Positions of `lengths` in rows of at most `capacity` tokens: longest first, each into the fullest row it fits.

    Best-fit-decreasing bin packing (Johnson 1973). A longer example than `capacity` gets a row of its own.
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fitting = [row for row, space in enumerate(room) if space >= lengths[position]]
        if fitting:
            row = min(fitting, key=lambda r: (room[r], r))
        else:
            row = len(rows)
            rows.append([])
            room.append(capacity)
        rows[row].append(position)
        room[row] -= lengths[position]
    return rows


def collate(examples: Sequence[Encoded], *, max_length: int, packing: bool, pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `labels`, `position_ids`, each [R, T] int64, of one micro-batch.

    Positions restart at every example, which together with `use_cache=False` and no attention mask makes transformers
    build a block-diagonal mask (train.md 0b: otherwise the examples silently see each other). The first token of an
    example is never a label: nothing before it predicts it. Padding is an example of its own that bears no loss. No
    examples at all give one row of padding, so that this worker still takes part in its group's collectives.
    """
    lengths = [len(example.input_ids) for example in examples]
    rows = best_fit(lengths, max_length) if packing else [[i] for i in range(len(examples))]
    width = max((sum(lengths[i] for i in row) for row in rows), default=2)
    shape = (max(1, len(rows)), width)
    input_ids = torch.full(shape, pad_id, dtype=torch.int64)
    labels = torch.full(shape, IGNORE, dtype=torch.int64)
    position_ids = torch.zeros(shape, dtype=torch.int64)
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
            at = end
        position_ids[number, at:] = torch.arange(width - at)
    return {"input_ids": input_ids, "labels": labels, "position_ids": position_ids}
