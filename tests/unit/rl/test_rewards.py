"""The reward as a sum of its parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fettle.data.record import Message, Prompt, Record
from fettle.recipe.rewards import RewardSpec
from fettle.rl.rewards.builtins import Builtin
from fettle.rl.rewards.function import FunctionScorer
from fettle.rl.rewards.rewards import Rewards, make_scorer
from fettle.rl.rewards.service import ServiceScorer
from fettle.rl.rollout import Rollout

RECORDS = [Record(Path("p.jsonl"), 1, prompt=Prompt((Message("user", "Why?"),), ("Why?",)))]


class Fixed:
    """The same scores whatever it is asked."""

    def __init__(self, *scores: float) -> None:
        self.scores = list(scores)

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        return self.scores


def rewards(*parts: tuple[dict[str, Any], tuple[float, ...]]) -> Rewards:
    """Of each part its keys and what it scores three answers."""
    specs = [RewardSpec.model_validate({"stage": f"part{number}"} | keys) for number, (keys, _) in enumerate(parts)]
    return Rewards(specs, [Fixed(*scores) for _, scores in parts])


def totals(made: Rewards, rollout: Any) -> list[float]:
    return [one.reward for one in made.judged([rollout(0, sample) for sample in range(3)], RECORDS)]


def test_the_reward_is_the_weighted_sum(rollout) -> None:
    made = rewards(({"weight": 2.0}, (1.0, 2.0, 3.0)), ({"weight": -0.5}, (4.0, 0.0, 2.0)))
    assert totals(made, rollout) == [0.0, 4.0, 5.0]


def test_each_part_is_kept_by_its_name_as_it_was_given(rollout) -> None:
    made = rewards(({"weight": 2.0, "clip": (0.0, 1.0), "name": "taste"}, (5.0, 0.5, -1.0)), ({}, (1.0, 2.0, 3.0)))
    found = made.judged([rollout(0, sample) for sample in range(3)], RECORDS)
    assert [one.parts for one in found] == [
        {"taste": 5.0, "part1": 1.0},
        {"taste": 0.5, "part1": 2.0},
        {"taste": -1.0, "part1": 3.0},
    ]
    assert [one.reward for one in found] == [3.0, 3.0, 3.0]
    assert [one.rollout.sample for one in found] == [0, 1, 2]


def test_a_part_is_clipped_at_both_ends(rollout) -> None:
    assert totals(rewards(({"clip": (-1.0, 1.0)}, (-9.0, 0.25, 9.0))), rollout) == [-1.0, 0.25, 1.0]


def test_a_part_is_whitened_after_its_clip_and_before_its_weight(rollout) -> None:
    found = totals(rewards(({"clip": (0.0, 2.0), "whiten": True, "weight": 3.0}, (-5.0, 1.0, 99.0))), rollout)
    # 0, 1, 2: mean 1, variance 2 / 3.
    np.testing.assert_allclose(found, 3 * np.array([-1.0, 0.0, 1.0]) / np.sqrt(2 / 3))


def test_a_whitened_part_that_is_the_same_for_all_adds_nothing(rollout) -> None:
    assert totals(rewards(({"whiten": True}, (0.1, 0.1, 0.1)), ({}, (1.0, 2.0, 3.0))), rollout) == [1.0, 2.0, 3.0]


def test_no_rollouts_have_no_rewards() -> None:
    assert rewards(({"whiten": True}, ())).judged([], RECORDS) == []


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"function": "rewards.py:f"}, FunctionScorer),
        ({"builtin": "repetition"}, Builtin),
        ({"url": "http://127.0.0.1/"}, ServiceScorer),
        ({"stage": "taste"}, Fixed),
    ],
)
def test_each_source_has_its_scorer(tmp_path, told, kind) -> None:
    (tmp_path / "rewards.py").write_text("def f(prompts, completions, **_): return []")
    asked: list[str] = []

    def model(name: str) -> Fixed:
        asked.append(name)
        return Fixed()

    assert isinstance(make_scorer(RewardSpec.model_validate(told), lambda path: tmp_path / path, model), kind)
    assert asked == (["taste"] if "stage" in told else [])


def test_what_is_told_of_a_whitened_reward_is_its_own_mean() -> None:
    """Whitened it is 0 whatever the answers are: 2 · (1 + 2 + 9 clipped to 3) / 3 = 4."""
    made = rewards(({"whiten": True, "weight": 2.0, "clip": (0.0, 3.0)}, (1.0, 2.0, 9.0)))
    assert made.plain_mean([{"part0": 1.0}, {"part0": 2.0}, {"part0": 9.0}]) == pytest.approx(4.0)
