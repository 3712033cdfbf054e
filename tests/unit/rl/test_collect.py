"""What the first worker does for an iteration, with a pool of fake engines: ask, reward, write down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_rl import make_fence, make_job, take_over

from fettle.data.record import Message, Record
from fettle.data.record import Prompt as Said
from fettle.engine.sampling import Completion, Sampling
from fettle.errors import FettleError
from fettle.rl.collect import Collector, collected, rollouts_file
from fettle.rl.engines import Answered, Asked, Version
from fettle.rl.prompts import Prompt, Prompts
from fettle.rl.rewards.rewards import Rewards
from fettle.rl.rollout import Rollout


class Pool:
    """Engines that answer a prompt of one token t with sample + 1 times t; those of the first sample are broken off."""

    def __init__(self) -> None:
        self.synced: list[Version] = []
        self.asked: list[tuple[list[Asked], Sampling]] = []
        self.is_awake = False

    @contextmanager
    def awake(self) -> Iterator[Pool]:
        self.is_awake = True
        yield self
        self.is_awake = False

    def sync(self, version: Version) -> float:
        assert self.is_awake
        self.synced.append(version)
        return 0.125

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[Answered]:
        assert self.is_awake
        self.asked.append((list(asked), sampling))
        return [
            Answered(
                tuple(_completion(one.prompt_ids[0], sample) for sample in range(sampling.num_samples)),
                self.synced[-1].number,
            )
            for one in asked
        ]


def _completion(token: int, sample: int) -> Completion:
    ids = (token,) * (sample + 1)
    return Completion(ids, (-0.5,) * len(ids), "a" * len(ids), "stop" if sample else "length")


class Lengths:
    """Scores an answer with its tokens times a factor."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        return [self.factor * len(one.output_ids) for one in rollouts]


class Broken(Pool):
    """Engines that die."""

    def answer(self, asked: Sequence[Asked], sampling: Sampling) -> list[Answered]:
        raise FettleError("engines died")


@pytest.fixture
def pool() -> Pool:
    return Pool()


@pytest.fixture
def make(tmp_path: Path, stage: Any, pool: Pool) -> Any:
    """`make(pool=, play=, **keys of the stage)`: a collector of four prompts, two an iteration with two answers each,
    and two held-out ones."""
    made: list[Collector] = []

    def make(of: Pool | None = None, play: Any = None, **told: Any) -> Collector:
        keys: dict[str, Any] = {"rollout": {"prompts": 2, "samples_per_prompt": 2, "max_new_tokens": 5}}
        job = make_job(tmp_path, stage("grpo", **keys | told), end_ids=(7, 9))
        prompts = Prompts(_prompts(11, 12, 13, 14), _prompts(21, 22), seed=0)
        judges = Rewards(job.spec.judges, [Lengths(10)]) if job.spec.judges else None
        rewards = Rewards(job.spec.rewards, [Lengths()])
        made.append(Collector(job, make_fence(tmp_path), lambda: of or pool, prompts, rewards, judges, play))
        return made[-1]

    yield make
    for one in made:
        one.close()


def _prompts(*tokens: int) -> list[Prompt]:
    turns = [(Message("system", "Be brief."), Message("user", f"{token}?")) for token in tokens]
    return [
        Prompt(Record(Path("p"), i + 1, prompt=Said(turns[i])), np.array([token], np.int32))
        for i, token in enumerate(tokens)
    ]


def collect(collector: Any, iteration: int = 0, number: int = 3) -> Any:
    """What an iteration's file holds."""
    collector.ask(iteration, Version(number))
    collector.wait(iteration)
    return collected(collector._job, iteration)


def test_an_answer_becomes_a_rollout_with_its_reward(make) -> None:
    first, second, *_ = collect(make()).rollouts
    said = first.rollout
    token = int(said.prompt_ids[0])
    assert (said.output_ids.tolist(), said.logprobs.tolist(), said.mask.tolist()) == ([token], [-0.5], [True])
    assert (said.finish, said.text, said.version, first.reward) == ("length", "a", 3, 1.0)
    assert (second.rollout.finish, second.reward, second.parts) == ("stop", 2.0, {"polite": 2.0})


def test_rollouts_come_prompt_by_prompt_and_sample_by_sample(make) -> None:
    found = [(one.rollout.prompt, one.rollout.sample) for one in collect(make()).rollouts]
    assert found == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_engines_take_the_version_before_they_are_asked(make, pool) -> None:
    collect(make(), number=5)
    ((asked, sampling),) = pool.asked
    assert [version.number for version in pool.synced] == [5]
    assert (len(asked), sampling.num_samples, sampling.max_new_tokens, sampling.stop_token_ids) == (2, 2, 5, (7, 9))


def test_every_prompt_of_every_iteration_is_drawn_by_a_seed_of_its_own(make, pool) -> None:
    collector = make()
    for iteration in range(3):
        collect(collector, iteration)
    seeds = [one.seed for asked, _ in pool.asked for one in asked]
    assert len(set(seeds)) == 6


def test_an_iteration_that_is_made_again_is_drawn_by_the_same_seeds(make, pool, tmp_path) -> None:
    collector = make()
    collect(collector)
    rollouts_file(collector._job, 0).unlink()
    collect(make())
    (one, _), (other, _) = pool.asked
    assert one == other


def test_an_iteration_whose_file_is_there_is_not_made_again(make, pool) -> None:
    collect(make())
    collect(make())
    assert len(pool.asked) == 1


def test_an_iteration_that_is_under_way_is_asked_for_once(make, pool) -> None:
    collector = make()
    collector.ask(0, Version(1))
    collector.ask(0, Version(2))
    collector.wait(0)
    assert [version.number for version in pool.synced] == [1]


def test_what_the_row_of_an_iteration_needs_is_told(make) -> None:
    told = collect(make()).told
    assert (told["probe"], told["judges"], set(told["seconds"])) == (0.125, {}, {"sync", "generate", "score"})
    assert sorted(told["prompts"]) == ["0", "1"] and told["prompts"]["0"].endswith("?")


def test_judges_are_told_as_means_and_change_no_reward(make) -> None:
    found = collect(make(judges=({"function": "rewards.py:taste"},)))
    assert found.told["judges"] == {"taste": 15.0}  # (10 + 20 + 10 + 20) / 4
    assert [one.reward for one in found.rollouts] == [1.0, 2.0, 1.0, 2.0]


def test_an_environments_reward_is_added_as_a_part_of_its_own(make) -> None:
    def play(asked: Any, answer: Any, sampling: Sampling, what: str) -> list[tuple[Rollout, float]]:
        ids = np.array([4], np.int32)
        return [
            (Rollout(i, 0, one.ids, ids, np.zeros(1, np.float32), np.ones(1, bool), 3, "stop", "so"), 0.25)
            for i, one in enumerate(asked)
        ]

    found = collect(make(play=play)).rollouts
    assert [(one.reward, one.parts) for one in found] == [(1.25, {"polite": 1.0, "environment": 0.25})] * 2


def test_the_held_out_reward_is_a_mean_over_one_answer_to_each_held_out_prompt(make, pool) -> None:
    found = make().measure(Version(4))
    ((asked, sampling),) = pool.asked
    assert (found, sampling.num_samples, [one.prompt_ids for one in asked]) == (1.0, 1, [(21,), (22,)])


def test_the_held_out_reward_is_always_drawn_by_the_same_seeds(make, pool) -> None:
    collector = make()
    collector.measure(Version(0))
    collect(collector)
    collector.measure(Version(9))
    assert pool.asked[0] == pool.asked[2]


def test_what_goes_wrong_is_raised_where_it_is_waited_for(make) -> None:
    collector = make(Broken())
    collector.ask(0, Version(1))
    with pytest.raises(FettleError, match="engines died"):
        collector.wait(0)


def test_a_run_that_was_taken_over_writes_no_rollouts(make, tmp_path) -> None:
    collector = make()
    take_over(make_fence(tmp_path))
    collector.ask(0, Version(1))
    with pytest.raises(FettleError, match="another run has taken over"):
        collector.wait(0)
