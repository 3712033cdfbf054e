"""How much each token counts in the loss: what each paper's average is, over a trainer that knows only one.

The trainer divides a step's sum by the number N of its loss-bearing tokens. Letters: M answers of a step, T_i
loss-bearing tokens of one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from fettle.rl.rollout import Judged

Average = Literal["tokens", "answers", "sums", "constant"]


def weighted(step: Sequence[Judged], average: Average, max_new_tokens: int) -> list[Judged]:
    """The rollouts of one optimizer step, with `weights` such that Σ weights · loss / N is the average asked for.

    tokens: over all tokens alike (1). answers: over answers of means over their tokens (N / (M T_i)). sums: over
    answers of sums over their tokens (N / M). constant: over answers of sums over their tokens / max_new_tokens
    (N / (M max_new_tokens)).
    """
    counts = np.array([one.rollout.num_loss_tokens for one in step], dtype=np.float64)
    total, answers = counts.sum(), len(step)
    each = {
        "tokens": np.ones(answers),
        "answers": total / (answers * np.maximum(counts, 1)),
        "sums": np.full(answers, total / answers),
        "constant": np.full(answers, total / (answers * max_new_tokens)),
    }[average]
    return [
        replace(one, weights=np.where(one.rollout.mask, weight, 0).astype(np.float32))
        for one, weight in zip(step, each, strict=True)
    ]
