"""float16 with loss scaling: the losses of float32, nearly, and the same steps left out, however the work is split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import Any

import pytest

from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.train import loss_scale
from fettle.train.job import StageJob
from gloo import again, cut_off, losses, train_alone, train_together, work, work_and_stop
from test_optimizer_steps import make_job, steps
from test_training_matrix import LORA

__all__ = ["make_job"]  # a fixture
MakeJob = Callable[..., StageJob]
# Ten binary digits against 24: the largest difference seen is 4e-3 nats.
NEARLY = 1e-2
# Half-precision sums in another order.
TOLERANCE = 2e-3
HIGH = 2.0**21
"""A first scale under which gradients overflow for some steps: they do above 2**17."""


def in_fp16(make_job: MakeJob, name: str, adapter: AdapterSpec = FULL, **keys: Any) -> StageJob:
    return dataclasses.replace(make_job(name, adapter, **keys), precision="fp16")


def overflowing(make_job: MakeJob, name: str, **keys: Any) -> StageJob:
    return in_fp16(make_job, name, max_steps=10, **keys)


def rates(job: StageJob) -> list[float]:
    """The rate of each step."""
    return [json.loads(line)["lr"] for line in job.progress.read_text().splitlines()]


def _work_high(*args: Any) -> None:
    loss_scale.FIRST_SCALE = HIGH
    work(*args)


def _stop_high(*args: Any) -> None:
    loss_scale.FIRST_SCALE = HIGH
    work_and_stop(*args)


@pytest.fixture(scope="module")
def skipping(make_job: MakeJob) -> StageJob:
    """One worker, whose first steps are left out."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scale, "FIRST_SCALE", HIGH)
        return train_alone(overflowing(make_job, "half-skipping"))


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[int, StageJob]:
    """Two workers at each ZeRO stage that looks for overflows, whose first steps are left out."""
    jobs = {zero: overflowing(make_job, f"half-skipping-{zero}") for zero in (1, 2)}
    train_together([(job, zero) for zero, job in jobs.items()], _work_high)
    return jobs


@pytest.mark.parametrize("adapter", [FULL, LORA], ids=["full", "lora"])
def test_the_losses_are_nearly_those_of_float32(make_job: MakeJob, adapter: AdapterSpec) -> None:
    half = train_alone(in_fp16(make_job, f"half-of-{adapter.kind}", adapter))
    whole = train_alone(make_job(f"whole-of-{adapter.kind}", adapter))
    assert losses(half) != losses(whole)
    assert losses(half) == pytest.approx(losses(whole), abs=NEARLY)


def test_steps_whose_gradients_overflow_are_left_out_and_the_schedule_waits(skipping: StageJob) -> None:
    told = losses(skipping)
    before, after = told[-2:]
    skipped = rates(skipping).count(rates(skipping)[0]) - 1
    # The checkpoint the stage is cut off at, after 2 steps, is among them.
    assert 2 < skipped < 8
    assert after < before - 0.05
    assert len(steps(skipping)) == 10


@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero", [1, 2])
def test_all_workers_leave_out_the_same_steps(skipping: StageJob, together: dict[int, StageJob], zero: int) -> None:
    assert rates(together[zero]) == pytest.approx(rates(skipping))
    assert losses(together[zero]) == pytest.approx(losses(skipping), abs=TOLERANCE)


def test_an_interrupted_stage_goes_on_with_the_scale_it_had(skipping: StageJob) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loss_scale, "FIRST_SCALE", HIGH)
        job = cut_off(skipping, 2)
    assert (steps(job), losses(job), rates(job)) == (steps(skipping), losses(skipping), rates(skipping))


@pytest.mark.timeout(600)
def test_two_interrupted_workers_go_on_with_the_scale_they_had(together: dict[int, StageJob]) -> None:
    straight, cut = together[2], again(together[2], "cut")
    train_together([(cut, 2)], _stop_high)
    assert not cut.artifact.exists()
    train_together([(cut, 2)], _work_high)
    assert (steps(cut), losses(cut), rates(cut)) == (steps(straight), losses(straight), rates(straight))
