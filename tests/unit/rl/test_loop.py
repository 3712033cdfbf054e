"""The loop over iterations, with fakes for the engines, the weights' way to them and the learner."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from small_rl import make_fence, make_job, take_over

from fettle.errors import FettleError
from fettle.rl.algorithms import algorithm_of
from fettle.rl.collect import collected, forget_rollouts, rollouts_file
from fettle.rl.engines import Version
from fettle.rl.job import RlJob
from fettle.rl.kl import AdaptiveKl, FixedKl
from fettle.rl.loop import Iterations, read_state, steps_of
from fettle.rl.rollout import Judged
from fettle.rl.stored import write_rollouts

PROMPTS, SAMPLES = 2, 4
EIGHT = {"prompts": PROMPTS, "samples_per_prompt": SAMPLES}


class FakeSync:
    """Tells of each version. kept: those that are still there."""

    def __init__(self, events: list[Any], kept: Sequence[int]) -> None:
        self.events, self.kept = events, kept

    def publish(self, number: int) -> Version:
        self.events.append(("sync", number))
        return Version(number)

    def stored(self, number: int) -> Version | None:
        return Version(number) if number in self.kept or ("sync", number) in self.events else None


class FakeCollector:
    """Makes rollouts as soon as it is asked for what it was not asked for before. behind: how much older than asked
    their version is."""

    def __init__(self, job: RlJob, events: list[Any], make: Any, behind: int = 0) -> None:
        self.job, self.events, self.make, self.behind = job, events, make, behind
        self.asked: dict[int, int] = {}

    def ask(self, iteration: int, version: Version) -> None:
        if iteration not in self.asked:
            self.asked[iteration] = version.number
            self.events.append(("ask", iteration))

    def wait(self, iteration: int) -> float:
        self.events.append(("wait", iteration))
        batch = self.make(self.asked[iteration] - self.behind)
        write_rollouts(
            rollouts_file(self.job, iteration), batch, make_fence(self.job.recipe_folder), seconds={}, reward=0.25
        )
        return 0.5


class Loop:
    """Iterations of a job whose parts write down what they are asked for, in `events`."""

    def __init__(self, job: RlJob, make: Any, *, first: int = 0, kept: Sequence[int] = (), behind: int = 0) -> None:
        self.job = job
        self.events: list[Any] = []
        self.fence = make_fence(job.recipe_folder)
        self.collector = FakeCollector(job, self.events, make, behind)
        self.kl, self.algorithm = FixedKl(0.05), algorithm_of(job.spec)
        self.task = SimpleNamespace(look=self._look, trainer=SimpleNamespace(model=None, is_deepspeed_enabled=False))
        self.judge, self.algorithm.judge = self.algorithm.judge, self._judge
        self.iterations = self._made(self.collector, first)
        self.iterations.begin(FakeSync(self.events, kept))

    def run(self, iterations: Any = None) -> list[list[Judged]]:
        steps = []
        for step in iterations or self.iterations:
            self.events.append("step")
            steps.append(step)
        return steps

    def on_another_worker(self) -> Iterations:
        """The same on a worker that is not the first."""
        other = self._made(None, 0)
        other.begin(FakeSync(self.events, ()))
        return other

    def _made(self, collector: Any, first: int) -> Iterations:
        return Iterations(self.job, self.fence, self.task, self.algorithm, self.kl, collector, first)

    def _look(self, batch: list[Judged]) -> list[Judged]:
        self.events.append("look")
        return batch

    def _judge(self, batch: list[Judged], kl_coef: float) -> list[Judged]:
        self.events.append(("judge", kl_coef))
        return self.judge(batch, kl_coef)


@pytest.fixture
def make_loop(tmp_path: Path, stage: Any, judged: Any) -> Any:
    """`make_loop(algorithm=, first=, kept=, behind=, **keys of the stage)`: two prompts with four answers each."""

    def rollouts(version: int) -> list[Judged]:
        """Of unlike rewards; the answers to the second prompt are longer."""
        of = [(prompt, sample) for prompt in range(PROMPTS) for sample in range(SAMPLES)]
        return [judged(p, float(s), [1] * (p + 1), sample=s, version=version) for p, s in of]

    def make(algorithm: Any = "grpo", first: int = 0, kept: Sequence[int] = (), behind: int = 0, **told: Any) -> Loop:
        spec = stage(algorithm, **{"rollout": EIGHT, "iterations": 3, "kl": {"coef": 0.0}} | told)
        return Loop(make_job(tmp_path, spec), rollouts, first=first, kept=kept, behind=behind)

    return make


def places(step: list[Judged]) -> list[tuple[int, int]]:
    return [(one.rollout.prompt, one.rollout.sample) for one in step]


ALL = [(prompt, sample) for prompt in range(PROMPTS) for sample in range(SAMPLES)]


def test_an_iteration_takes_the_policy_asks_waits_looks_judges_and_learns(make_loop) -> None:
    loop = make_loop(iterations=2, batch={"sequences": 4})
    loop.run()
    assert loop.events == [
        *(("sync", 0), ("ask", 0), ("wait", 0), "look", ("judge", 0.05), "step", "step"),
        *(("sync", 1), ("ask", 1), ("wait", 1), "look", ("judge", 0.05), "step", "step"),
    ]


@pytest.mark.parametrize(
    ("ahead", "versions"),
    [
        (0, {0: 0, 1: 1, 2: 2, 3: 3}),
        (1, {0: 0, 1: 0, 2: 1, 3: 2}),
        (2, {0: 0, 1: 0, 2: 0, 3: 1}),
        (9, {0: 0, 1: 0, 2: 0, 3: 0}),  # never more than the stage has
    ],
)
def test_rollouts_are_made_by_the_version_that_is_as_old_as_allowed(make_loop, ahead, versions) -> None:
    loop = make_loop(iterations=4, max_staleness=ahead)
    loop.run()
    assert loop.collector.asked == versions


def test_the_next_rollouts_are_asked_for_before_these_are_waited_for(make_loop) -> None:
    loop = make_loop(max_staleness=1)
    loop.run()
    asked = [event for event in loop.events if event[0] in ("sync", "ask", "wait")]
    assert asked == [
        *(("sync", 0), ("ask", 0), ("ask", 1), ("wait", 0)),
        *(("sync", 1), ("ask", 2), ("wait", 1)),
        *(("sync", 2), ("wait", 2)),
    ]


@pytest.mark.parametrize(
    ("kept", "versions"),
    [((0, 1), {2: 1, 3: 2}), ((), {2: 2, 3: 2})],  # where the older one is gone, by the policy as it is
)
def test_a_resumed_run_asks_for_what_an_earlier_version_should_have_made(make_loop, kept, versions) -> None:
    loop = make_loop(iterations=4, max_staleness=1, first=2, kept=kept)
    loop.run()
    assert loop.collector.asked == versions


def test_a_resumed_loop_begins_at_the_iteration_that_comes_next(make_loop) -> None:
    loop = make_loop(first=2)
    steps = loop.run()
    assert ([event for event in loop.events if event[0] == "sync"], len(steps)) == ([("sync", 2)], 1)


def test_a_resumed_loop_counts_its_steps_from_the_stages_beginning(make_loop) -> None:
    loop = make_loop(first=2, batch={"sequences": 4})
    steps = loop.run()
    assert loop.iterations[6] is steps[-1]  # the second of the third iteration of two steps


@pytest.mark.parametrize(("ahead", "behind", "is_refused"), [(0, 0, False), (0, 1, True), (1, 0, False), (1, 1, True)])
def test_rollouts_that_are_older_than_allowed_are_not_learned_from(make_loop, ahead, behind, is_refused) -> None:
    loop = make_loop(max_staleness=ahead, first=2, kept=(1,), behind=behind)
    refused = None
    try:
        loop.run()
    except FettleError as error:
        refused = str(error)
    expected = f"iteration 2 has rollouts of version {1 - ahead} of the policy, and max_staleness is {ahead}"
    assert (refused or "").startswith(expected) == is_refused == (refused is not None)


def test_a_worker_without_engines_learns_from_what_the_first_one_wrote(make_loop) -> None:
    loop = make_loop()
    mine = [places(step) for step in loop.run()]
    loop.events.clear()
    theirs = [places(step) for step in loop.run(loop.on_another_worker())]
    assert mine == theirs and not [event for event in loop.events if event[0] in ("ask", "wait")]


def test_a_worker_that_waits_for_rollouts_stops_when_the_run_was_taken_over(make_loop) -> None:
    loop = make_loop()
    take_over(loop.fence)
    with pytest.raises(FettleError, match="another run has taken over"):
        loop.run(loop.on_another_worker())


def test_what_was_worked_out_of_rollouts_is_kept_with_the_divergences_weight(make_loop, tmp_path) -> None:
    loop = make_loop()
    loop.task.look = lambda batch: [_with_old(one) for one in batch]
    next(iter(loop.iterations))
    found = collected(loop.job, 0)
    assert found.told == {"seconds": {}, "reward": 0.25, "kl_coef": 0.05}
    assert [one.old.tolist() for one in found.rollouts] == [[-7.0]] * 4 + [[-7.0, -7.0]] * 4


def test_the_seconds_of_each_phase_are_told(make_loop) -> None:
    loop = make_loop()
    next(iter(loop.iterations))
    assert (loop.iterations.seconds["wait"], set(loop.iterations.seconds)) == (0.5, {"publish", "wait", "reference"})


def test_all_rollouts_come_once_in_each_epoch(make_loop) -> None:
    loop = make_loop({"kind": "grpo", "epochs": 2}, iterations=1, batch={"sequences": 4})
    one, two, three, four = [places(step) for step in loop.run()]
    assert (sorted(one + two), sorted(three + four)) == (ALL, ALL)


def test_the_order_is_drawn_anew_for_each_epoch_of_each_iteration_by_the_seed_alone(make_loop) -> None:
    loop = make_loop({"kind": "grpo", "epochs": 2}, batch={"sequences": 1})
    batch = loop.collector.make(0)

    def drawn(iteration: int) -> list[tuple[int, int]]:
        return [place for step in steps_of(loop.job, loop.algorithm, batch, iteration) for place in places(step)]

    orders = [order for i in (0, 1) for order in (drawn(i)[:8], drawn(i)[8:])]
    assert drawn(0) == drawn(0) and all(orders.count(order) == 1 for order in orders)


def test_the_weights_of_a_step_are_those_of_its_own_rollouts(make_loop) -> None:
    loop = make_loop(batch={"sequences": 2})
    for step in loop.run():
        lengths = [len(one.rollout.mask) for one in step]
        # GRPO's mean over answers of means over tokens: N / (M T) with N tokens and M = 2 answers of the step.
        assert [one.weights[0] for one in step] == pytest.approx([sum(lengths) / (2 * length) for length in lengths])


def test_of_raft_a_step_learns_from_the_best_answers_alone(make_loop) -> None:
    (step,) = make_loop("raft", iterations=1).run()
    assert places(step) == [(0, 3), (1, 3)]


def test_the_reward_that_is_told_is_the_one_before_anything_was_whitened(make_loop) -> None:
    loop = make_loop(iterations=1)
    loop.run()
    assert loop.iterations.reward == 0.25


def test_the_number_of_steps_is_that_of_the_stage(make_loop) -> None:
    loop = make_loop({"kind": "grpo", "epochs": 2}, batch={"sequences": 4})
    assert len(loop.iterations) == len(loop.run()) == 12  # 3 iterations of 2 epochs of 2 steps


def test_a_step_that_was_handed_out_is_there_by_its_number(make_loop) -> None:
    loop = make_loop(batch={"sequences": 4})
    found = [loop.iterations[number] is step for number, step in enumerate(loop.iterations, start=1)]
    assert found == [True] * 6


def test_the_state_says_which_iteration_comes_next_and_how_strong_the_divergence_is(make_loop, tmp_path) -> None:
    loop = make_loop(batch={"sequences": 4})
    loop.iterations.kl = AdaptiveKl(0.125, target=6.0)
    loop.iterations.write(tmp_path, number=4)  # two iterations of two steps
    other = AdaptiveKl(0.05, target=6.0)
    assert (read_state(tmp_path, other), other.coef) == (2, 0.125)


def test_the_state_is_json(make_loop, tmp_path) -> None:
    make_loop().iterations.write(tmp_path, number=1)
    assert json.loads((tmp_path / "rl.json").read_text()) == {"iteration": 1, "kl": {"coef": 0.05}}


def test_rollouts_are_forgotten_that_neither_a_replay_nor_a_resumed_run_needs(make_loop) -> None:
    # A checkpoint every 2 iterations, of which 1 is kept: 2 · (1 + 1) = 4 iterations, more than the recorder's 3.
    loop = make_loop(recorder={"batches": 3}, checkpoint={"every": 2, "keep": 1})
    for iteration in range(8):
        write_rollouts(rollouts_file(loop.job, iteration), loop.collector.make(0), loop.fence)
    forget_rollouts(loop.job, 7)
    assert sorted(int(file.stem) for file in rollouts_file(loop.job, 0).parent.glob("*")) == [4, 5, 6, 7]


def _with_old(one: Judged) -> Judged:
    return replace(one, old=np.full(len(one.rollout.mask), -7.0, np.float32))
