"""Training some of a model's own layers: the last ones (freeze), or a few at a time (lisa)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fettle.artifact import read_artifact
from fettle.models.base import BUNDLED
from fettle.recipe.adapter import AdapterSpec
from fettle.train.job import StageJob
from fettle.train.lisa import chosen_layers
from gloo import cut_off, interrupted_together, losses, train_alone, train_together
from preference_jobs import make_preference_jobs
from test_classify_stage import make_job as make_classify_job
from test_optimizer_steps import make_job, steps
from test_reward_stage import make_job as make_reward_job

__all__ = ["make_classify_job", "make_job", "make_reward_job"]  # fixtures
MakeJob = Callable[..., StageJob]
FREEZE = AdapterSpec(kind="freeze", layers=2)
# Of 4 steps: three of the first turn, one of the second; a checkpoint after 2 falls within a turn.
LISA = AdapterSpec(kind="lisa", layers=2, every=3)
QUICK = AdapterSpec(kind="lisa", layers=1, every=1)
TOLERANCE = 2e-5  # nats; float32, sums in another order


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker."""
    jobs = {
        "full": make_job("full"),
        "freeze": make_job("freeze", FREEZE),
        "freeze recomputed": make_job("freeze-recomputed", FREEZE, gradient_checkpointing=True),
        "lisa": make_job("lisa", LISA),
        "lisa padded": make_job("lisa-padded", LISA, packing=False, batch={"sequences": 8, "accumulate": 4}),
        "lisa recomputed": make_job("lisa-recomputed", LISA, gradient_checkpointing=True),
        "quick": make_job("quick", QUICK, optimizer="muon"),
    }
    return {name: train_alone(job) for name, job in jobs.items()}


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[str, StageJob]:
    """Two workers."""
    jobs = {
        "freeze zero-0": (make_job("two-freeze-0", FREEZE), 0),
        "freeze zero-2": (make_job("two-freeze-2", FREEZE, batch={"sequences": 8, "accumulate": 8}), 2),
        "freeze zero-3": (make_job("two-freeze-3", FREEZE), 3),
        "lisa zero-0": (make_job("two-lisa", LISA), 0),
    }
    train_together(list(jobs.values()))
    return {name: job for name, (job, _) in jobs.items()}


def moved(job: StageJob, base: Path = BUNDLED["tiny"]) -> set[str]:
    """The weights that are no longer the base's."""
    before, after = load_file(base / "model.safetensors"), load_file(job.artifact / "model.safetensors")
    return {name for name, weight in after.items() if not torch.equal(weight, before[name])}


def layers_among(names: set[str]) -> set[int]:
    return {int(name.split(".")[2]) for name in names if name.startswith("model.layers.")}


def chosen(turn: int) -> list[int]:
    """LISA's layers in a turn."""
    return chosen_layers(3, turn, 2, 6)  # 3 is the stages' seed


def test_every_way_of_training_the_weights_begins_with_the_same_loss(alone: dict[str, StageJob]) -> None:
    told = [losses(alone[name]) for name in ("full", "freeze", "lisa")]
    assert told[0][0] == told[1][0] == told[2][0]
    assert len({one[-1] for one in told}) == 3
    assert all(one[-1] < one[-2] - 0.05 for one in told)  # held out, after and before


@pytest.mark.parametrize("case", ["freeze zero-0", "freeze zero-2", "freeze zero-3", "lisa zero-0"])
@pytest.mark.timeout(600)
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone[case.split()[0]]), abs=TOLERANCE)


def test_padding_and_accumulation_leave_lisas_losses_alone(alone: dict[str, StageJob]) -> None:
    assert losses(alone["lisa padded"]) == pytest.approx(losses(alone["lisa"]), abs=TOLERANCE)


@pytest.mark.parametrize("kind", ["freeze", "lisa"])
def test_gradient_checkpointing_leaves_the_losses_alone(alone: dict[str, StageJob], kind: str) -> None:
    assert losses(alone[f"{kind} recomputed"]) == losses(alone[kind])


def test_freezing_moves_the_last_layers_and_the_head_which_is_the_embedding_where_they_are_tied(
    alone: dict[str, StageJob], together: dict[str, StageJob]
) -> None:
    for job in (alone["freeze"], together["freeze zero-2"], together["freeze zero-3"]):
        assert layers_among(moved(job)) == {4, 5}
        # The norms' weights move by less than a step of the bfloat16 they are written in.
        assert {name for name in moved(job) if "layers" not in name} - {"model.norm.weight"} == {
            "model.embed_tokens.weight"
        }
        assert read_artifact(job.artifact).kind == "model"


def test_lisa_moves_the_layers_of_each_turn_and_no_others(
    alone: dict[str, StageJob], together: dict[str, StageJob]
) -> None:
    assert chosen(0) != chosen(1)
    for job in (alone["lisa"], together["lisa zero-0"]):
        assert layers_among(moved(job)) == {*chosen(0), *chosen(1)}
        assert "model.embed_tokens.weight" in moved(job)


@pytest.mark.parametrize("case", ["freeze", "lisa", "quick"])
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], case: str) -> None:
    """`lisa` in the middle of a turn, `quick`, whose turns are single steps, between two."""
    job = cut_off(alone[case], 2)
    assert (steps(job), losses(job)) == ([1, 2, 3, 4], losses(alone[case]))
    assert moved(job, base=alone[case].artifact) == set()


@pytest.mark.timeout(600)
def test_two_workers_with_lisa_go_on_with_the_very_same_losses(
    together: dict[str, StageJob], make_job: MakeJob
) -> None:
    job = make_job("two-lisa-cut", LISA)
    interrupted_together([(job, 0)])
    assert not job.artifact.exists()
    train_together([(job, 0)])
    assert (steps(job), losses(job)) == ([1, 2, 3, 4], losses(together["lisa zero-0"]))


@pytest.mark.parametrize("adapter", [FREEZE, LISA], ids=lambda adapter: adapter.kind)
def test_preferences_begin_where_the_policy_is_its_reference(root: Path, tmp_path: Path, adapter: AdapterSpec) -> None:
    job = train_alone(make_preference_jobs(root, tmp_path)("prefer", adapter=adapter))
    told = losses(job)
    assert told[0] == pytest.approx(0.6931, abs=1e-4)  # log 2
    heldout = read_artifact(job.artifact).metrics["loss"]
    assert heldout["heldout_after"] < heldout["heldout_before"]


@pytest.mark.parametrize("kind", ["classify", "reward"])
@pytest.mark.parametrize("adapter", [FREEZE, LISA], ids=lambda adapter: adapter.kind)
def test_a_new_head_is_trained_with_the_layers(
    make_classify_job: MakeJob, make_reward_job: MakeJob, adapter: AdapterSpec, kind: str
) -> None:
    make = make_classify_job if kind == "classify" else make_reward_job
    job = train_alone(make(f"{kind}-{adapter.kind}", adapter=adapter))

    before, after = load_file(BUNDLED["tiny"] / "model.safetensors"), load_file(job.artifact / "model.safetensors")
    changed = {name for name, weight in after.items() if name in before and not torch.equal(weight, before[name])}
    assert losses(job)[5] < losses(job)[0]
    assert layers_among(changed) == ({4, 5} if adapter == FREEZE else {*chosen(0), *chosen(1)})
