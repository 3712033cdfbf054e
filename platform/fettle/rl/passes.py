"""Forward passes over an iteration's rollouts, which the workers share: what each token's log-probability or value is.

Letters: N rollouts, T tokens of one's answer, L loss-bearing tokens of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from fettle.data.batches import Encoded, in_rows, share_out

_TOKENS_PER_BATCH = 4096
Measure = Callable[[dict[str, torch.Tensor]], torch.Tensor]
"""Of a micro-batch of packed rows (`input_ids`, `position_ids`, `labels`), a number for each label, row after row."""


def in_order(batch: Sequence[Encoded], places: Sequence[tuple[int, int, int]]) -> list[int]:
    """Positions of the examples in the order in which their labels come, row after row."""
    return sorted(range(len(batch)), key=lambda position: places[position])


@torch.no_grad()
def over_tokens(trainer: Any, batch: Sequence[Encoded], measure: Measure) -> list[np.ndarray]:
    """The measure of each loss-bearing token of each example, float32, 0 at the others: as long as the example.

    All workers call it together with the same examples, of which each takes its share; all get all of it.
    """
    device, task = trainer.args.device, trainer.task
    counts = [int(np.count_nonzero(one.loss_mask)) for one in batch]
    first = np.cumsum([0, *counts])
    flat = torch.zeros(int(first[-1]), dtype=torch.float32, device=device)
    lengths = [len(one.input_ids) for one in batch]
    rank, world = trainer.batches.rank, trainer.batches.world
    groups = max(1, -(-sum(lengths) // (_TOKENS_PER_BATCH * world)))
    model = trainer.model_wrapped
    was_training = model.training
    model.eval()
    for positions in share_out(lengths, groups * world)[rank * groups : (rank + 1) * groups]:
        chosen = [batch[position] for position in positions]
        rows, places = in_rows(chosen, max_length=task.max_length, packing=task.packing, pad_id=task.pad_id)
        found = measure({key: value.to(device) for key, value in rows.items()}).float()
        at = 0
        for number in in_order(chosen, places):
            position = positions[number]
            flat[first[position] : first[position + 1]] = found[at : at + counts[position]]
            at += counts[position]
    model.train(was_training)
    if world > 1:
        torch.distributed.all_reduce(flat)
    told = flat.cpu().numpy()
    return [_laid_out(one, told[first[n] : first[n + 1]]) for n, one in enumerate(batch)]


def _laid_out(example: Encoded, found: np.ndarray) -> np.ndarray:
    laid = np.zeros(len(example.input_ids), dtype=np.float32)
    laid[np.flatnonzero(example.loss_mask)] = found
    return laid
