"""The reference of a stage: the policy as the stage received it, whatever the policy has learned since."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_rl import make_job, tiny_model, trainer_of

from fettle.models import adapters
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.rl.algorithms import algorithm_of
from fettle.rl.kl import kl_weight
from fettle.rl.learner import RlTask

LORA = AdapterSpec(kind="lora", r=4, alpha=8)
EVERY = pytest.mark.parametrize(
    ("adapter", "goes_on"),
    [(FULL, False), (FULL, True), (LORA, False), (LORA, True)],
    ids=["full", "full-from-adapter", "fresh-adapter", "same-adapter"],
)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with the tiny model."""
    tiny_model().save_pretrained(tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def received(tmp_path: Path, stage: Any, base: Path) -> Any:
    """`received(adapter, from_adapter)`: the task of a stage, whose model is as it was received."""

    def make(adapter: AdapterSpec, from_adapter: Path | None = None) -> RlTask:
        spec = stage("grpo")
        job = make_job(tmp_path, spec, adapter=adapter, base=base, from_adapter=from_adapter)
        task = RlTask(job, algorithm_of(spec), kl_weight(spec.kl))
        model: Any = task.load(base, torch.float32)
        if from_adapter is not None:
            beside = adapter.is_beside
            model = (
                adapters.resume(model, from_adapter) if beside else adapters.merged(model, from_adapter, torch.float32)
            )
        elif adapter.is_beside:
            model = adapters.attach(model, adapter, base, 0)
        task.prepare(trainer_of(task, model))
        return task

    return make


@pytest.fixture
def earlier(base: Path, tmp_path: Path) -> Path:
    """The folder of an adapter that has learned."""
    model: Any = adapters.attach(tiny_model(), LORA, base, 0)
    learn(model, 0.1)
    model.save_pretrained(tmp_path / "earlier")
    return tmp_path / "earlier"


def learn(model: Any, by: float) -> None:
    """Moves every weight that is trained."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += by * torch.randn(weight.shape, generator=draw)


def looked(task: RlTask, judged: Any) -> list[list[float]]:
    batch = [judged(0, 1.0, [1, 0, 1]), judged(1, 0.0, [1])]
    return [one.reference.tolist() for one in task.look(batch)]


def now(task: RlTask, judged: Any) -> list[list[float]]:
    batch = [judged(0, 1.0, [1, 0, 1]), judged(1, 0.0, [1])]
    found = task.policy_logprobs(batch)
    return [laid[len(one.rollout.prompt_ids) :].tolist() for laid, one in zip(found, batch, strict=True)]


@EVERY
def test_at_first_the_reference_is_the_policy(received, judged, earlier, adapter, goes_on) -> None:
    task = received(adapter, earlier if goes_on else None)
    for one, other in zip(looked(task, judged), now(task, judged), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@EVERY
def test_the_reference_stays_while_the_policy_learns(received, judged, earlier, adapter, goes_on) -> None:
    task = received(adapter, earlier if goes_on else None)
    before, policy = looked(task, judged), now(task, judged)
    learn(task.trainer.model, 0.1)
    assert looked(task, judged) == before and now(task, judged) != policy


@EVERY
def test_asking_the_reference_leaves_the_policy_as_it_is(received, judged, earlier, adapter, goes_on) -> None:
    task = received(adapter, earlier if goes_on else None)
    learn(task.trainer.model, 0.1)
    before = {name: weight.clone() for name, weight in task.trainer.model.named_parameters()}
    looked(task, judged)
    assert all(torch.equal(weight, before[name]) for name, weight in task.trainer.model.named_parameters())


def test_a_resumed_stage_has_the_reference_that_it_began_with(received, judged, earlier) -> None:
    began = received(LORA, earlier)
    resumed = received(LORA, earlier)
    learn(resumed.trainer.model, 0.1)  # as a checkpoint has it
    resumed.prepare(resumed.trainer)
    assert looked(resumed, judged) == looked(began, judged)
