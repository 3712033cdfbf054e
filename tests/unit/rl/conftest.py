"""Rollouts by hand: ragged answers, the environment's tokens, broken-off ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from fettle.recipe.rl import RlStage
from fettle.rl.rollout import Judged, Rollout

MakeRollout = Callable[..., Rollout]
MakeJudged = Callable[..., Judged]
MakeStage = Callable[..., RlStage]
_ARRAYS = ("old", "reference", "values")


def _rollout(prompt: int = 0, sample: int = 0, *, mask: list[int] | None = None, **told: Any) -> Rollout:
    wanted = np.array([1, 1, 1] if mask is None else mask, dtype=bool)
    fields: dict[str, Any] = {
        "prompt_ids": np.array([7, 8], np.int32),
        "output_ids": np.arange(len(wanted), dtype=np.int32),
        "logprobs": np.where(wanted, -1.0, 0.0).astype(np.float32),
        "version": 0,
        "finish": "stop",
        "text": "an answer",
    }
    fields |= {key: np.array(value) if isinstance(value, list) else value for key, value in told.items()}
    return Rollout(prompt=prompt, sample=sample, mask=wanted, **fields)


@pytest.fixture
def rollout() -> MakeRollout:
    """`rollout(prompt, sample, mask=, text=, …)`: as many tokens as `mask` has places, three by default; of
    log-probability −1."""
    return _rollout


@pytest.fixture
def judged() -> MakeJudged:
    """`judged(prompt, reward, mask, old=, reference=, values=, …)`: a rollout with what was told of it."""

    def make(prompt: int, reward: float, mask: list[int], **told: Any) -> Judged:
        arrays = {key: np.array(told.pop(key), np.float32) for key in _ARRAYS if key in told}
        return Judged(_rollout(prompt, mask=mask, **told), {"a": reward}, reward, **arrays)

    return make


@pytest.fixture
def stage() -> MakeStage:
    """`stage(kind, **other keys)`: the spec of a stage of that algorithm, which may be given as its keys."""

    def make(algorithm: Any, **told: Any) -> RlStage:
        least = {
            "name": "align",
            "kind": "rl",
            "prompts": "prompts.jsonl",
            "rewards": ({"function": "rewards.py:polite"},),
            "iterations": 10,
        }
        return RlStage.model_validate(least | {"algorithm": algorithm} | told)

    return make
