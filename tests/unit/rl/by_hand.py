"""A small iteration whose numbers are worked out by hand."""

from __future__ import annotations

from typing import Any

from fettle.rl.algorithms import algorithm_of
from fettle.rl.rollout import Judged

MASKS = ([1, 1], [1, 0, 0, 1, 1], [1], [1, 1, 1, 1])  # the second has called a tool, whose two tokens it did not say
REWARDS = (1.0, 3.0, 0.0, 4.0)
NO_KL = {"coef": 0}
MAX_NEW = 4


def make(stage: Any, algorithm: Any, kl: Any = NO_KL) -> Any:
    return algorithm_of(stage(algorithm, kl=kl, rollout={"max_new_tokens": MAX_NEW}))


def told(learned: list[Judged], name: str = "advantages") -> list[list[float]]:
    """Of each answer, rounded as float32 has it."""
    return [[round(float(value), 5) for value in getattr(one, name)] for one in learned]


def laid_out(per_answer: list[float]) -> list[list[float]]:
    """One number an answer at each of its own tokens, 0 at the tool's."""
    return [[value * bears_loss for bears_loss in mask] for value, mask in zip(per_answer, MASKS, strict=True)]
