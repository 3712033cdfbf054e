"""Rollouts by hand: ragged answers, the environment's tokens, broken-off ones; stages, and rows of iterations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from by_hand import MASKS, REWARDS

from fettle.recipe.rl import RlStage
from fettle.rl.recorder import IterationRow
from fettle.rl.rollout import Judged, Rollout

MakeRollout = Callable[..., Rollout]
MakeJudged = Callable[..., Judged]
MakeStage = Callable[..., RlStage]
MakeRow = Callable[..., IterationRow]
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


@pytest.fixture
def make_row() -> MakeRow:
    """`make_row(iteration, length=, truncated=, kl=, **fields)`: an iteration with nothing remarkable, but for what is
    told."""

    def make(
        iteration: int = 0, *, length: float = 20.0, truncated: float = 0.0, kl: float = 1.0, **told: Any
    ) -> IterationRow:
        fields: dict[str, Any] = {
            "iteration": iteration,
            "version": iteration,
            "oldest_version": iteration,
            "seconds": 1.0,
            "phases": {},
            "tokens": 8,
            "tokens_per_second": 8.0,
            "lengths": {"mean": length, "min": 1.0, "max": 64.0, "truncated": truncated},
            "reward": 0.5,
            "parts": {},
            "judges": {},
            "alike": 0.0,
            "repetition": 0.0,
            "kl": {"token": 0.05, "answer": kl, "coef": 0.05},
            "entropy": 1.0,
            "clip_fraction": 0.0,
            "ratio": {"mean": 1.0, "std": 0.0, "max": 1.0},
            "gap": {"mean": 0.001, "max": 0.01},
            "probe": 0.002,
            "grad_norm": 1.0,
            "loss": 0.1,
            "value_loss": None,
            "alarms": [],
            "samples": [],
        }
        return IterationRow(**fields | told)

    return make


@pytest.fixture
def batch(judged) -> list[Judged]:
    """Prompts 0 and 1 with two answers each, of 2, 3, 1 and 4 loss-bearing tokens; the last one was broken off. The
    policy's log-probabilities are −1; each token's k1 is 0.5. The critic says 0.5 but at the tool's tokens."""
    return [
        judged(
            number // 2,
            REWARDS[number],
            mask,
            sample=number % 2,
            finish="length" if number == 3 else "stop",
            reference=[-1.5 * bears_loss for bears_loss in mask],
            values=[0.5 if bears_loss else 99.0 for bears_loss in mask],
        )
        for number, mask in enumerate(MASKS)
    ]
