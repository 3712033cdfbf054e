"""`kind: rl` on one worker with a real engine: sampler and learner agree, an interruption changes nothing."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import pytest

from fettle.artifact import read_artifact
from fettle.cluster import ray_session
from fettle.errors import FettleError
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.algorithm import AlgorithmKind
from fettle.rl.algorithms import algorithm_of
from fettle.rl.collect import Collector, collected, rollouts_file
from fettle.rl.job import RlJob
from fettle.rl.kl import kl_weight
from fettle.rl.learner import RlTask
from fettle.rl.loop import Iterations
from fettle.rl.recorder import PHASES, Recorder
from fettle.rl.replay import replay
from fettle.rl.sync import version_path
from gloo import again, cut_off, fence_of, train_alone
from rl_jobs import LORA, PROMPTS, SAMPLES, MakeJob, drawn, make_rl_jobs, rows_of, timeless
from standing_engines import standing_engines

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(300)
NO_STEP = 1e-30  # lost beside any float32 weight
RUNS: dict[str, dict[str, Any]] = {
    "full that stays": {"algorithm": "rloo", "lr": NO_STEP, "iterations": 20, "max_staleness": 1},
    "lora that stays": {"algorithm": "dr_grpo", "lr": NO_STEP, "iterations": 20, "adapter": LORA},
    "rises": {
        "iterations": 12,
        "algorithm": "reinforce_pp_baseline",
        "rollout": {"prompts": 8, "samples_per_prompt": 8, "transfer": "broadcast"},
    },
    "grpo": {"iterations": 4},
    "stale": {"iterations": 4, "max_staleness": 1, "algorithm": "reinforce_pp", "adapter": LORA, "lr": 3e-3},
    "ppo": {"iterations": 4, "algorithm": "ppo", "adapter": LORA, "lr": 3e-3},
    "raft": {"iterations": 2, "algorithm": "raft", "rollout": {"placement": "shared"}},
    "online_dpo": {"iterations": 2, "algorithm": "online_dpo"},
}
OF_KIND = {
    "rloo": "full that stays",
    "dr_grpo": "lora that stays",
    "reinforce_pp": "stale",
    "reinforce_pp_baseline": "rises",
}  # others are called by it
Trained = Callable[[str], RlJob]


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeJob]:
    """`make_job(name, …)`, in a cluster of their own, whose engines stay."""
    with ray_session(num_cpus=2), standing_engines():
        yield make_rl_jobs(root, tmp_path_factory.mktemp("rl"))


@pytest.fixture(scope="module")
def trained(make_job: MakeJob) -> Trained:
    """`trained(name)`: the stage of RUNS, trained when it is first asked for: an engine takes 8 s to start."""
    done: dict[str, RlJob] = {}

    def stage(name: str) -> RlJob:
        if name not in done:
            keys = {"checkpoint": {"every": 2}} | RUNS[name]
            done[name] = train_alone(make_job(name.replace(" ", "-"), **keys))
        return done[name]

    return stage


@pytest.mark.parametrize("case", ["full that stays", "lora that stays"])
def test_without_a_step_sampler_and_learner_agree_and_nothing_drifts(trained: Trained, case: str) -> None:
    rows = rows_of(trained(case))

    assert len(rows) == 20
    assert max(row.gap["max"] for row in rows) <= 1e-4
    assert max(row.gap["mean"] for row in rows) <= 1e-6
    assert max(abs(row.ratio[which] - 1) for row in rows for which in ("mean", "max")) <= 1e-4
    assert {row.kl["answer"] for row in rows} == {0.0}


def test_with_a_staleness_of_one_the_answers_come_from_the_version_before(trained: Trained) -> None:
    job = trained("full that stays")

    assert [row.oldest_version for row in rows_of(job)] == [max(0, n - 1) for n in range(20)]
    assert {one.rollout.version for one in collected(job, 19).rollouts} == {18}


def test_rollouts_that_are_too_old_are_not_learned_from(trained: Trained) -> None:
    job = trained("grpo")
    told = dataclasses.replace(job, folder=job.folder.with_name("too-old"))
    kl = kl_weight(job.spec.kl)
    algorithm = algorithm_of(job.spec)
    steps = Iterations(told, fence_of(job), RlTask(told, algorithm, kl), algorithm, kl, None, first=3)
    rollouts_file(told, 3).parent.mkdir(parents=True)
    rollouts_file(told, 3).write_bytes(rollouts_file(job, 2).read_bytes())

    with pytest.raises(FettleError, match="iteration 3 has rollouts of version 2 .* max_staleness is 0"):
        steps._rollouts(3)


@pytest.mark.parametrize("case", get_args(AlgorithmKind))
def test_every_algorithm_makes_an_artifact_that_tells_of_its_run(trained: Trained, case: str) -> None:
    job = trained(OF_KIND.get(case, case))

    artifact = read_artifact(job.artifact, verify=True)
    told = artifact.metrics
    assert artifact.kind == ("adapter" if job.adapter.is_beside else "model")
    assert told["iterations"] == job.spec.iterations == len(rows_of(job))
    assert set(told["reward"]) == {"first", "last", "heldout_before", "heldout_after"}
    assert None not in told["reward"].values() and told["kl"] is not None
    has_steps_between = job.spec.max_staleness > 0 and job.spec.lr > NO_STEP  # then they are in the gap too
    assert 0 < told["gap"]["mean"] < told["gap"]["max"] < (1.0 if has_steps_between else 1e-4)
    assert set(told["phases"]) == set(PHASES)
    assert min(told["phases"][phase] for phase in ("generate", "reference", "learn", "sync")) > 0


def test_each_iteration_has_every_sample_of_every_prompt_once(trained: Trained) -> None:
    wanted = [(prompt, sample) for prompt in range(PROMPTS) for sample in range(SAMPLES)]

    assert [drawn(trained("grpo"), iteration) for iteration in range(4)] == [wanted] * 4


def test_a_reward_that_is_easy_rises(trained: Trained) -> None:
    rewards = [row.reward for row in rows_of(trained("rises"))]

    # From -1.4 to -0.8 letters / 20; an iteration's mean of 64 answers is off by 0.1.
    assert fmean(rewards[-3:]) > fmean(rewards[:3]) + 0.25


def died_after_row(job: RlJob, monkeypatch: pytest.MonkeyPatch, iteration: int) -> RlJob:
    """The stage in another folder, interrupted when the row of an iteration was written, whose step is in no
    checkpoint, and then gone on with."""
    job = again(job, "died")
    write = Recorder.write

    def write_and_die(self: Recorder, row: Any) -> None:
        write(self, row)
        if row.iteration == iteration:
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Recorder, "write", write_and_die)
        with pytest.raises(KeyboardInterrupt):
            train_alone(job)
    return train_alone(job)


@pytest.fixture
def made() -> Iterator[Counter[str]]:
    """How often answers were made for what."""
    count: Counter[str] = Counter()
    draw = Collector._drawn

    def counted(self: Collector, asked: Any, what: str, num_samples: int) -> Any:
        count[what] += 1
        return draw(self, asked, what, num_samples)

    Collector._drawn = counted  # type: ignore[method-assign]  # cut_off undoes what monkeypatch does
    yield count
    Collector._drawn = draw  # type: ignore[method-assign]


ONCE_EACH = {**{f"iteration {number}": 1 for number in range(4)}, "held out": 2}


@pytest.mark.parametrize("case", ["ppo", "stale"])
def test_a_stage_cut_off_at_a_checkpoint_goes_on_with_the_very_same_rows(
    trained: Trained, made: Counter[str], case: str
) -> None:
    straight = trained(case)
    made.clear()

    job = cut_off(straight, 2)

    assert (timeless(job), dict(made)) == (timeless(straight), ONCE_EACH)


def test_a_stage_that_died_between_checkpoints_learns_again_from_the_answers_it_has(
    trained: Trained, made: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = trained("grpo")
    made.clear()

    job = died_after_row(straight, monkeypatch, 2)

    assert (timeless(job), dict(made)) == (timeless(straight), ONCE_EACH)


def test_an_adapter_that_goes_on_is_held_to_what_it_was(make_job: MakeJob, loras: dict[str, Path]) -> None:
    adapter = AdapterSpec(kind="lora", r=8, alpha=16)
    job = train_alone(make_job("goes-on", adapter=adapter, from_adapter=loras["polite"], lr=3e-3))

    first, *later = [abs(row.kl["answer"]) for row in rows_of(job)]
    assert first <= 1e-5
    assert min(later) > 1e-2


def test_a_replay_finds_what_was_recorded(trained: Trained) -> None:
    job = trained("stale")
    row = rows_of(job)[1]

    found = replay(job.folder, 1)

    figures = found.figures
    assert [figures.entropy, figures.kl, figures.loss, found.grad_norm] == pytest.approx(
        [row.entropy, row.kl["token"], row.loss, row.grad_norm], rel=1e-4, abs=1e-7
    )
    assert [figures.gap_mean, figures.gap_max] == pytest.approx([row.gap["mean"], row.gap["max"]], abs=1e-5)


def test_a_replay_with_a_critic_finds_what_the_policy_did(trained: Trained) -> None:
    job = trained("ppo")
    row = rows_of(job)[3]

    figures = replay(job.folder, 3).figures

    assert [figures.entropy, figures.kl] == pytest.approx([row.entropy, row.kl["token"]], rel=1e-4)


def test_full_weights_are_not_kept_once_the_stage_is_done(trained: Trained) -> None:
    assert not version_path(trained("grpo"), 3).exists()
