"""Preferences: the same losses however the work is split, and those of TRL. Two-process gloo, no Ray."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fettle.artifact import read_artifact
from fettle.errors import FettleError
from fettle.train.job import StageJob
from gloo import cut_off, losses, stop_alone, train_alone, train_together
from preference_jobs import LORA, make_preference_jobs

pytestmark = pytest.mark.timeout(300)  # the first test of a kind waits for all of that kind to be trained
# float32, sums in another order.
TOLERANCE = 2e-5
LOSSES = ("dpo", "cdpo", "ipo", "kto", "orpo", "simpo")
MakeJob = Callable[..., StageJob]


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make_job(name, loss=…, …)`: a stage of the tiny model on some of Northline's preferences."""
    return make_preference_jobs(root, tmp_path_factory.mktemp("preference"))


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: each loss, and what differs in packing or accumulation."""
    jobs = {loss: make_job(loss, loss=loss) for loss in LOSSES}
    jobs |= {
        "dpo padded": make_job("dpo-padded", packing=False),
        "dpo accumulated": make_job("dpo-accumulated", accumulate=3),
        "dpo lora": make_job("dpo-lora", adapter=LORA),
        "kto padded": make_job("kto-padded", loss="kto", packing=False),
        "kto accumulated": make_job("kto-accumulated", loss="kto", accumulate=3),
        "kto unpaired": make_job("kto-unpaired", loss="kto", unpaired=True),
        "orpo accumulated": make_job("orpo-accumulated", loss="orpo", accumulate=3),
    }
    for job in jobs.values():
        train_alone(job)
    return jobs


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[str, StageJob]:
    """Two workers, at each ZeRO stage."""
    jobs = {
        "dpo zero-0": (make_job("two-dpo-zero-0"), 0),
        "dpo zero-2": (make_job("two-dpo-zero-2"), 2),
        # 6 records over 2 × 8 micro-batches: some are empty.
        "dpo zero-2 accumulated": (make_job("two-dpo-zero-2-accumulated", accumulate=8), 2),
        "dpo lora zero-2": (make_job("two-dpo-lora-zero-2", adapter=LORA), 2),
        "kto zero-2 accumulated": (make_job("two-kto-zero-2", loss="kto", accumulate=8), 2),
        "ipo zero-0": (make_job("two-ipo-zero-0", loss="ipo"), 0),
        "orpo zero-0 accumulated": (make_job("two-orpo-zero-0", loss="orpo", accumulate=8), 0),
        "dpo zero-3": (make_job("two-dpo-zero-3"), 3),
        "dpo lora zero-3": (make_job("two-dpo-lora-zero-3", adapter=LORA), 3),
        "kto zero-3": (make_job("two-kto-zero-3", loss="kto"), 3),
    }
    train_together(list(jobs.values()))
    return {name: job for name, (job, _) in jobs.items()}


@pytest.mark.parametrize(
    ("case", "reference"),
    [
        ("dpo padded", "dpo"),
        ("dpo accumulated", "dpo"),
        ("kto padded", "kto"),
        ("kto accumulated", "kto"),
        ("orpo accumulated", "orpo"),
    ],
)
def test_packing_and_accumulation_leave_the_losses_alone(alone: dict[str, StageJob], case: str, reference: str) -> None:
    assert losses(alone[case]) == pytest.approx(losses(alone[reference]), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("case", "reference"),
    [
        ("dpo zero-0", "dpo"),
        ("dpo zero-2", "dpo"),
        ("dpo zero-2 accumulated", "dpo"),
        ("dpo zero-3", "dpo"),
        ("dpo lora zero-2", "dpo lora"),
        ("dpo lora zero-3", "dpo lora"),
        ("kto zero-2 accumulated", "kto"),
        ("kto zero-3", "kto"),
        ("ipo zero-0", "ipo"),
        ("orpo zero-0 accumulated", "orpo"),
    ],
)
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str, reference: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone[reference]), abs=TOLERANCE)


@pytest.mark.parametrize(("case", "at_start"), [("dpo", 0.693147), ("cdpo", 0.693147), ("ipo", 25.0), ("kto", 0.5)])
def test_a_stage_begins_where_policy_and_reference_are_equal(
    alone: dict[str, StageJob], case: str, at_start: float
) -> None:
    # log 2; cDPO's two terms are each log 2 there; IPO (0 − 1 / 0.2)²; KTO 1 − σ(0).
    assert losses(alone[case])[0] == pytest.approx(at_start, abs=1e-3)


@pytest.mark.parametrize("case", [*LOSSES, "dpo lora", "kto unpaired"])
def test_training_lowers_the_heldout_loss_and_raises_the_margin(alone: dict[str, StageJob], case: str) -> None:
    metrics = read_artifact(alone[case].artifact).metrics

    assert metrics["loss"]["heldout_after"] < metrics["loss"]["heldout_before"]
    assert metrics["measures"]["margin"]["after"] > metrics["measures"]["margin"]["before"]


@pytest.mark.parametrize("case", ["dpo", "dpo lora", "kto", "simpo"])
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], case: str) -> None:
    job = cut_off(alone[case], 4)

    steps = [json.loads(line)["step"] for line in job.progress.read_text().splitlines()]
    assert (steps, losses(job)) == ([1, 2, 3, 4, 5, 6], losses(alone[case]))


def test_a_stage_that_lost_its_reference_does_not_take_the_trained_policy_for_it(
    make_job: MakeJob,
) -> None:
    job = make_job("lost")
    stop_alone(job, 4)
    (job.folder / "reference.npz").unlink()

    with pytest.raises(FettleError, match=r"reference.npz is gone"):
        train_alone(job)


def test_a_continued_adapter_is_compared_with_what_it_was(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    job = dataclasses.replace(make_job("continued", adapter=LORA), from_adapter=alone["dpo lora"].artifact)

    train_alone(job)

    assert losses(job)[0] == pytest.approx(0.693147, abs=1e-4)


def test_the_artifact_is_an_ordinary_model_or_adapter(alone: dict[str, StageJob]) -> None:
    kinds: list[Any] = [read_artifact(alone[case].artifact).kind for case in ("dpo", "kto", "dpo lora")]

    assert kinds == ["model", "model", "adapter"]
