"""What a stage tells of itself, and the weights it leaves."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fettle.train.progress import StepRow
from fettle.train.publish import _cast
from fettle.train.told import StageReport, _elapsed

NO_STEPS: Any = None


def row(step: int, seconds: float, began: float = 0.0, loss: float = 1.0) -> StepRow:
    return StepRow(
        step, 9, loss, lr=1e-3, grad_norm=1.0, tokens=8, loss_tokens=4, seconds=seconds, time=began + seconds
    )


def test_the_report_has_the_means_of_the_first_and_the_last_tenth_of_the_steps(make_job):
    job = make_job()
    report = StageReport(job, NO_STEPS, write=True)
    report.trainer = SimpleNamespace(task=SimpleNamespace(unit="pair"))
    report.before, report.after = {"loss": 4.0, "accuracy": 0.5}, {"loss": 2.0, "accuracy": 0.75}
    for step in range(1, 21):
        report.writer.write(step=step, steps=20, loss=float(step), lr=1e-3, grad_norm=1.0, tokens=8, loss_tokens=3)
    told = report.metrics()
    assert told["loss"] == {"first": 1.5, "last": 19.5, "heldout_before": 4.0, "heldout_after": 2.0}
    assert (told["unit"], told["measures"]) == ("pair", {"accuracy": {"before": 0.5, "after": 0.75}})
    assert (told["steps"], told["tokens"]) == (20, {"loss_bearing": 60, "all": 160})


def test_seconds_are_of_every_attempt_that_led_to_the_result():
    assert _elapsed([row(1, 2.0), row(2, 4.0), row(3, 6.0)]) == 6.0
    # Died after step 2 of the first attempt; the second began 100 s later.
    assert _elapsed([row(1, 2.0), row(2, 4.0), row(3, 1.0, began=100), row(4, 3.0, began=100)]) == 4 + 3


def test_seconds_are_right_where_the_second_attempt_took_longer_to_its_first_step_than_the_first_one_lived():
    assert _elapsed([row(1, 2.0), row(2, 30.0, began=100), row(3, 31.0, began=100)]) == 2 + 31


def test_tied_weights_stay_one_tensor_when_they_are_cast():
    weight = torch.ones(2, 2)
    state = _cast({"embed": weight, "head": weight, "norm": torch.ones(2)}, torch.bfloat16)
    assert state["embed"].data_ptr() == state["head"].data_ptr() != state["norm"].data_ptr()
    assert {value.dtype for value in state.values()} == {torch.bfloat16}


@pytest.mark.parametrize("write", [True, False])
def test_only_the_first_worker_writes_progress(make_job, write):
    assert (StageReport(make_job(), NO_STEPS, write=write).writer is not None) is write
