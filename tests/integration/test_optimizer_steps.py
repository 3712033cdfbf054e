"""Every optimizer gives the same losses however the work is split, and goes on as if never interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import write_tokens
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import end_ids
from fettle.recipe import SftStage
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.train.job import StageJob
from gloo import again, cut_off, interrupted_together, losses, stage_job, train_alone, train_together

MakeJob = Callable[..., StageJob]

RATES = {"adamw": 1e-3, "adamw_8bit": 1e-3, "adam": 1e-3, "sgd": 0.1, "rmsprop": 2e-4, "adafactor": 1e-2, "muon": 1e-3}
# AdamW is in the matrix. A piece of a vector is stepped by these as the whole is.
ELEMENTWISE = ("adam", "sgd", "rmsprop")
SPLIT = [("adafactor", 0), ("muon", 0), ("adamw_8bit", 2), *((kind, zero) for zero in (2, 3) for kind in ELEMENTWISE)]
# Muon orthogonalises in bfloat16, which makes more of the order of a sum: 3e-5 nats seen, elsewhere 2e-6.
TOLERANCE = dict.fromkeys(RATES, 2e-5) | {"muon": 2e-4}


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make_job(name, adapter="full", **keys of the stage)`: four sft steps of the tiny model."""
    folder = tmp_path_factory.mktemp("optimizers")
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    records = list(read_file(root / "recipes" / "northline" / "chat.jsonl")[1])[:100]
    tokens = write_tokens(folder / "tokens", encode(records, tokenizer, max_length=128))
    write_tokens(folder / "heldout", [tokens[place] for place in range(10)])
    (folder / "epoch").write_text("test")

    def make(name: str, adapter: AdapterSpec = FULL, **keys: Any) -> StageJob:
        told = {"name": name, "kind": "sft", "data": "chat.jsonl", "max_steps": 4, "batch": {"sequences": 8}}
        spec = SftStage.model_validate(told | {"lr": 1e-3, "checkpoint": {"every": 2}} | keys)
        return stage_job(spec, folder, adapter=adapter, heldout=(folder / "heldout",), end_ids=end_ids(tokenizer))

    return make


def with_optimizer(make_job: MakeJob, kind: str, name: str) -> StageJob:
    return make_job(f"{kind}-{name}", optimizer={"kind": kind, "weight_decay": 0.1}, lr=RATES[kind])


def steps(job: StageJob) -> list[int]:
    return [json.loads(line)["step"] for line in job.progress.read_text().splitlines()]


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: each optimizer."""
    jobs = {kind: with_optimizer(make_job, kind, "alone") for kind in RATES}
    for job in jobs.values():
        train_alone(job)
    return jobs


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[tuple[str, int], StageJob]:
    """Two workers: each optimizer at each ZeRO stage that it works with."""
    jobs = {(kind, zero): with_optimizer(make_job, kind, f"zero-{zero}") for kind, zero in SPLIT}
    train_together([(job, zero) for (_, zero), job in jobs.items()])
    return jobs


@pytest.mark.parametrize("kind", RATES)
def test_an_optimizer_lowers_the_heldout_loss(alone: dict[str, StageJob], kind: str) -> None:
    *_, before, after = losses(alone[kind])
    assert after < before - 0.05


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "zero"), SPLIT)
def test_two_workers_take_the_steps_of_one(
    alone: dict[str, StageJob], together: dict[tuple[str, int], StageJob], kind: str, zero: int
) -> None:
    assert losses(together[kind, zero]) == pytest.approx(losses(alone[kind]), abs=TOLERANCE[kind])


@pytest.mark.parametrize("kind", RATES)
def test_an_interrupted_optimizer_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], kind: str) -> None:
    job = cut_off(alone[kind], 2)
    assert (steps(job), losses(job)) == ([1, 2, 3, 4], losses(alone[kind]))


@pytest.mark.timeout(600)
def test_two_workers_with_zero_go_on_with_the_very_same_losses(together: dict[tuple[str, int], StageJob]) -> None:
    jobs = {case: again(together[case], "cut") for case in (("sgd", 2), ("rmsprop", 3))}
    interrupted_together([(job, zero) for (_, zero), job in jobs.items()])
    assert not any(job.artifact.exists() for job in jobs.values())
    train_together([(job, zero) for (_, zero), job in jobs.items()])
    for case, job in jobs.items():
        assert (steps(job), losses(job)) == ([1, 2, 3, 4], losses(together[case]))
