"""Early stopping, noise on embeddings, gradient checkpointing: what they leave alone, and that they go on exactly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fettle.artifact import read_artifact
from fettle.recipe.adapter import FULL
from fettle.train.checkpoint import Checkpoints
from fettle.train.job import StageJob
from gloo import again, cut_off, losses, train_alone, train_together
from test_optimizer_steps import make_job, steps
from test_training_matrix import LORA

__all__ = ["make_job"]  # a fixture
MakeJob = Callable[..., StageJob]
# With this rate the held-out loss falls and then rises: the best weights are not the last.
OVERSHOOTS: dict[str, Any] = {
    "lr": 2e-2,
    "schedule": {"kind": "linear", "warmup": 0.9},
    "max_steps": 12,
    "early_stop": {"every": 1, "patience": 2},
    "checkpoint": {"every": 1},
}


def trained(job: StageJob) -> StageJob:
    train_alone(job)
    return job


def weights(job: StageJob) -> dict[str, torch.Tensor]:
    (file,) = job.artifact.glob("*.safetensors")
    return load_file(file)


@pytest.fixture(scope="module")
def stopped(make_job: MakeJob) -> StageJob:
    """A stage that ends early."""
    return trained(make_job("stopped", **OVERSHOOTS))


def best_step(job: StageJob) -> int:
    return int(read_artifact(job.artifact).metrics["early_stop"]["step"])


def test_a_stage_ends_early_with_the_weights_of_its_best_measurement(stopped: StageJob, make_job: MakeJob) -> None:
    told = read_artifact(stopped.artifact).metrics
    assert steps(stopped) == [*range(1, best_step(stopped) + 3)]
    assert told["loss"]["heldout_after"] == pytest.approx(told["early_stop"]["heldout"], abs=1e-6)
    last = trained(make_job("kept-last", **OVERSHOOTS | {"early_stop": {"every": 1, "patience": 2, "keep": "last"}}))
    assert losses(last)[:-1] == losses(stopped)[:-1]
    assert losses(last)[-1] > losses(stopped)[-1] + 0.01


@pytest.mark.parametrize("at", ["best", "last"])
def test_a_stage_that_ends_early_does_so_at_the_same_step_after_an_interruption(stopped: StageJob, at: str) -> None:
    """At the checkpoint of the best step, and after the one of the very last, where only publishing is left."""
    job = cut_off(stopped, best_step(stopped) + (2 if at == "last" else 0))
    assert (steps(job), losses(job)) == (steps(stopped), losses(stopped))
    for name, weight in weights(stopped).items():
        assert torch.equal(weight, weights(job)[name])


@pytest.mark.timeout(600)
def test_two_workers_end_early_at_the_same_step_with_the_same_weights(stopped: StageJob, make_job: MakeJob) -> None:
    lora = trained(make_job("lora-stopped", adapter=LORA, **OVERSHOOTS))
    jobs = [(stopped, again(stopped, f"zero-{zero}"), zero) for zero in (2, 3)] + [(lora, again(lora, "zero-2"), 2)]
    train_together([(job, zero) for _, job, zero in jobs])
    for one, two, _ in jobs:
        assert steps(two) == steps(one)
        assert best_step(two) == best_step(one) < len(steps(one))
        assert losses(two) == pytest.approx(losses(one), abs=1e-4)


@pytest.mark.parametrize("adapter", [FULL, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_leaves_the_losses_alone(make_job: MakeJob, adapter: Any) -> None:
    name = "full" if adapter == FULL else "lora"
    plain = trained(make_job(f"kept-{name}", adapter, gradient_checkpointing=False))
    again_computed = trained(make_job(f"recomputed-{name}", adapter, gradient_checkpointing=True))
    assert losses(again_computed) == losses(plain)


def test_noise_changes_the_training_losses_and_is_gone_from_what_is_measured(make_job: MakeJob) -> None:
    plain, noisy = trained(make_job("plain")), trained(make_job("noisy", neftune=5.0))
    assert losses(noisy)[0] != losses(plain)[0]
    assert losses(noisy)[-2] == losses(plain)[-2]
    assert weights(noisy).keys() == weights(plain).keys()
    assert (noisy.artifact / "config.json").read_text() == (plain.artifact / "config.json").read_text()


@pytest.mark.parametrize("adapter", [FULL, LORA], ids=["full", "lora"])
def test_an_interrupted_stage_goes_on_with_the_very_same_noise(make_job: MakeJob, adapter: Any) -> None:
    name = "noisy-full" if adapter == FULL else "noisy-lora"
    job = trained(make_job(name, adapter, neftune=5.0))
    assert losses(cut_off(job, 2)) == losses(job)


def test_the_best_checkpoint_stays_whatever_is_kept(stopped: StageJob, monkeypatch: pytest.MonkeyPatch) -> None:
    kept: list[list[int]] = []
    monkeypatch.setattr(Checkpoints, "clear", lambda self: kept.append(self.complete()))
    trained(again(stopped, "uncleared"))
    assert best_step(stopped) in kept[0]
