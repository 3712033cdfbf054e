"""Micro-batches for encoders, whose tokens see those after them too: no text may see another, nor padding.

Letters: R rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fettle.data.batches import IGNORE, OfParts, collate_parts, pack


def collate_encoder(
    ids: Sequence[np.ndarray],
    labels: Sequence[np.ndarray],
    *,
    max_length: int,
    packing: bool,
    pad_id: int,
    first_position: int = 0,
) -> dict[str, torch.Tensor]:
    """`input_ids`, `labels`, [R, T] int64, of some texts, [tokens] each, and what keeps them apart.

    Padded: `attention_mask`, [R, T] int64. Packed: `attention_mask`, [R, 1, T, T] bool, True inside each text and
    inside the padding, and `position_ids`, which restart at `first_position` in each. No texts at all give a row of
    padding that sees itself: a softmax over nothing would be NaN.
    """
    lengths = [len(one) for one in ids]
    rows = pack(lengths, max_length) if packing and ids else [[place] for place in range(len(ids))]
    width = max((sum(lengths[place] for place in row) for row in rows), default=2)
    shape = (max(1, len(rows)), width)
    found = {"input_ids": torch.full(shape, pad_id), "labels": torch.full(shape, IGNORE)}
    text_of, position_ids = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    for number, row in enumerate(rows):
        at = 0
        for order, place in enumerate(row, start=1):
            end = at + lengths[place]
            found["input_ids"][number, at:end] = torch.from_numpy(ids[place])
            found["labels"][number, at:end] = torch.from_numpy(labels[place])
            text_of[number, at:end] = order
            position_ids[number, at:end] = torch.arange(end - at)
            at = end
    if not packing:
        return found | {"attention_mask": (text_of > 0).long() if rows else torch.ones(shape, dtype=torch.int64)}
    together = text_of[:, None, :, None] == text_of[:, None, None, :]
    return found | {"attention_mask": together, "position_ids": position_ids + first_position}


def collate_first(examples: Sequence[OfParts], *, max_length: int, pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids`, `attention_mask`, [R, T] int64, with a row for each part of some examples, and `ends` [N, 2]: the
    row and column at which each is read, its first. No examples at all give a row of padding that sees itself."""
    batch = collate_parts(examples, max_length=max_length, packing=False, pad_id=pad_id)
    is_text = batch["part_of"] >= 0
    found = {"input_ids": batch["input_ids"], "attention_mask": (is_text | ~is_text.any()).long()}
    return found | {"ends": batch["ends"] * torch.tensor([1, 0])}
