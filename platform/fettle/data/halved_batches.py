"""Micro-batches for encoder-decoder models: prompts padded for the encoder, answers for the decoder.

Letters: R examples, S tokens of the longest prompt, T of the longest answer.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from fettle.data.batches import IGNORE

_LEAST = 2  # columns of a batch without any example


def collate_halves(
    prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray], *, pad_id: int, start_id: int
) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, [R, S] int64, `decoder_input_ids` and `labels`, [R, T] int64.

    The decoder is given `start_id` and all of the answer but its last token; each of the answer's tokens is a label. No
    examples at all give a row of padding that the encoder reads (a softmax over nothing would be NaN), without labels.
    """
    if not prompts:
        padding = torch.full((1, _LEAST), pad_id)
        mask, labels = torch.ones_like(padding), torch.full_like(padding, IGNORE)
        return {"input_ids": padding, "attention_mask": mask, "decoder_input_ids": padding.clone(), "labels": labels}
    input_ids, labels = _padded(prompts, pad_id), _padded(answers, IGNORE)
    mask = _padded([np.ones_like(prompt) for prompt in prompts], 0)
    before = torch.full((len(answers), 1), start_id)
    given = torch.cat([before, labels[:, :-1].masked_fill(labels[:, :-1] == IGNORE, pad_id)], dim=1)
    return {"input_ids": input_ids, "attention_mask": mask, "decoder_input_ids": given, "labels": labels}


def _padded(rows: Sequence[np.ndarray], filling: int) -> torch.Tensor:
    found = torch.full((len(rows), max(1, *(len(row) for row in rows), 1)), filling)
    for place, row in enumerate(rows):
        found[place, : len(row)] = torch.from_numpy(row.astype(np.int64))
    return found
