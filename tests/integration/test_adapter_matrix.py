"""Every adapter beside the weights: the same losses however the work is split, exact resume, and what it can become."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fettle.artifact import read_artifact
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import grouped, write_tokens
from fettle.models.adapters import merged, resume
from fettle.models.base import BUNDLED, load_tokenizer, load_weights
from fettle.recipe import SftStage
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.kinds import ClassifyStage
from fettle.train.job import StageJob
from fettle.train.preference import REFERENCE
from gloo import again, cut_off, interrupted_together, losses, stage_job, train_alone, train_together
from preference_jobs import make_preference_jobs

# float32, sums in another order: the largest difference seen is 1e-6 nats.
TOLERANCE = 2e-5
# Of a loss, between weights of four bits and the full ones an adapter is merged into: 0.03 to 0.06 nats seen.
ROUNDING = 0.1
LORA: dict[str, Any] = {"kind": "lora", "r": 4, "alpha": 8}
ADAPTERS: dict[str, tuple[dict[str, Any], float]] = {  # with a learning rate that suits it
    "lora+": (LORA | {"lr_ratio": 16.0}, 1e-3),
    "rslora": (LORA | {"rslora": True}, 1e-3),
    "dora": (LORA | {"kind": "dora"}, 1e-3),
    "ia3": ({"kind": "ia3"}, 1e-2),
    "prefix": ({"kind": "prefix"}, 1e-2),
    "prompt": ({"kind": "prompt"}, 1e-2),
    "bottleneck": ({"kind": "bottleneck", "size": 16}, 1e-3),
    "lora 4": (LORA | {"bits": 4}, 1e-3),
    "lora 8": (LORA | {"bits": 8}, 1e-3),
    "dora 4": (LORA | {"kind": "dora", "bits": 4}, 1e-3),
    "ia3 4": ({"kind": "ia3", "bits": 4}, 1e-2),
}
MERGED = ("lora+", "rslora", "dora", "ia3", "lora 4", "lora 8", "dora 4", "ia3 4")
SPLIT = [
    *((kind, 2) for kind in ADAPTERS),
    *((kind, 0) for kind in ("prefix", "bottleneck", "lora 4")),
    *((kind, 3) for kind in ("dora", "prefix", "bottleneck")),
]

MakeJob = Callable[..., StageJob]


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make_job(name, adapter, **keys of the stage)`: three sft steps of the tiny model."""
    folder = tmp_path_factory.mktemp("adapters")
    records = list(read_file(root / "recipes" / "northline" / "chat.jsonl")[1])[:60]
    tokens = write_tokens(folder / "tokens", encode(records, load_tokenizer(BUNDLED["tiny"]), max_length=96))
    write_tokens(folder / "heldout", [tokens[place] for place in range(8)])
    (folder / "epoch").write_text("test")

    def make(name: str, adapter: AdapterSpec = FULL, **keys: Any) -> StageJob:
        told = {"name": name, "kind": "sft", "data": "chat.jsonl", "max_steps": 3, "batch": {"sequences": 8}}
        spec = SftStage.model_validate(told | {"lr": 1e-3, "checkpoint": {"every": 2}} | keys)
        return stage_job(spec, folder, adapter=adapter, heldout=(folder / "heldout",), max_length=96)

    return make


def job_of(make_job: MakeJob, kind: str, variant: str, **keys: Any) -> StageJob:
    settings, rate = ADAPTERS[kind]
    name = f"{kind}-{variant}".replace(" ", "-").replace("+", "-plus")
    return make_job(name, AdapterSpec.model_validate(settings), lr=rate, **keys)


def beginning_from(job: StageJob, earlier: StageJob, **told: Any) -> StageJob:
    """The stage from the adapter that `earlier` made; told: keys of the stage."""
    spec = job.spec.model_copy(update=told)
    return dataclasses.replace(job, spec=spec, from_adapter=earlier.artifact)


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: every kind."""
    return {kind: train_alone(job_of(make_job, kind, "alone")) for kind in ADAPTERS}


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[tuple[str, int], StageJob]:
    """Two workers: every kind at ZeRO 2, some at 0 and 3."""
    jobs = {(kind, zero): job_of(make_job, kind, f"zero-{zero}") for kind, zero in SPLIT}
    train_together([(job, zero) for (_, zero), job in jobs.items()])
    return jobs


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    """Of two examples in a row."""
    ids = torch.arange(3, 43)[None]
    positions = torch.cat([torch.arange(25), torch.arange(15)])[None]
    return model.eval()(input_ids=ids, position_ids=positions, use_cache=False).logits


def base_of(job: StageJob) -> torch.nn.Module:
    return load_weights(job.base, torch.float32)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_training_lowers_the_heldout_loss(alone: dict[str, StageJob], kind: str) -> None:
    *_, before, after = losses(alone[kind])
    assert after < before - 0.005


@pytest.mark.parametrize("kind", ADAPTERS)
def test_packing_and_accumulation_leave_the_losses_alone(
    alone: dict[str, StageJob], make_job: MakeJob, kind: str
) -> None:
    other = job_of(make_job, kind, "padded", packing=False, batch={"sequences": 8, "accumulate": 3})
    assert losses(train_alone(other)) == pytest.approx(losses(alone[kind]), abs=TOLERANCE)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "zero"), SPLIT)
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[tuple[str, int], StageJob], kind: str, zero: int
) -> None:
    assert losses(together[kind, zero]) == pytest.approx(losses(alone[kind]), abs=TOLERANCE)


@pytest.mark.parametrize("kind", ADAPTERS)
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], kind: str) -> None:
    assert losses(cut_off(alone[kind], 2)) == losses(alone[kind])


@pytest.mark.timeout(600)
def test_two_interrupted_workers_go_on_with_the_very_same_losses(together: dict[tuple[str, int], StageJob]) -> None:
    job = again(together["bottleneck", 2], "cut")
    interrupted_together([(job, 2)])
    (checkpoint,) = (job.folder / "checkpoints").glob("step-*")
    held = sum(file.stat().st_size for file in checkpoint.rglob("*") if file.is_file())
    assert held < (job.base / "model.safetensors").stat().st_size  # the adapter, not what it lies beside

    train_together([(job, 2)])

    assert losses(job) == losses(together["bottleneck", 2])


@pytest.mark.parametrize("kind", MERGED)
def test_the_adapters_artifact_over_its_base_is_the_merged_model(alone: dict[str, StageJob], kind: str) -> None:
    job = alone[kind]
    apart, whole = (how(base_of(job), job.artifact) for how in (resume, lambda *one: merged(*one, torch.float32)))
    torch.testing.assert_close(logits(whole), logits(apart), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", ["dora", "prefix", "prompt", "bottleneck", "lora 4"])
def test_the_same_adapter_goes_on_from_where_it_was(alone: dict[str, StageJob], make_job: MakeJob, kind: str) -> None:
    job = train_alone(beginning_from(job_of(make_job, kind, "further"), alone[kind]))

    *_, before, after = losses(job)
    assert before == pytest.approx(losses(alone[kind])[-1], abs=TOLERANCE)
    assert after < before


@pytest.mark.parametrize("kind", ["dora", "ia3", "lora 4"])
def test_merge_first_begins_from_the_base_with_the_adapters_update(
    alone: dict[str, StageJob], make_job: MakeJob, kind: str
) -> None:
    job = beginning_from(job_of(make_job, kind, "merged"), alone[kind], merge_first=True)
    told = read_artifact(train_alone(job).artifact).metrics["loss"]
    # The merged weights lie in the base's bfloat16, and, here again, in four bits.
    tolerance = ROUNDING if "4" in kind else 0.02
    assert told["heldout_before"] == pytest.approx(losses(alone[kind])[-1], abs=tolerance)


def test_full_training_goes_on_from_weights_into_which_a_quantised_bases_adapter_is_merged(
    alone: dict[str, StageJob], make_job: MakeJob
) -> None:
    job = train_alone(beginning_from(make_job("full-after"), alone["lora 4"], merge_first=True))
    told = read_artifact(job.artifact).metrics["loss"]
    assert told["heldout_before"] == pytest.approx(losses(alone["lora 4"])[-1], abs=ROUNDING)


@pytest.fixture(scope="module")
def make_preferences(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    return make_preference_jobs(root, tmp_path_factory.mktemp("preferences"))


@pytest.mark.timeout(600)
def test_preferences_over_four_bits_start_at_their_reference_on_one_worker_and_two(make_preferences: MakeJob) -> None:
    adapter = AdapterSpec.model_validate(LORA | {"bits": 4})
    one, two = (make_preferences(f"four-{name}", adapter=adapter) for name in ("one", "two"))
    train_alone(one)
    train_together([(two, 2)])

    assert losses(one)[0] == pytest.approx(math.log(2), abs=1e-6)
    assert losses(two) == pytest.approx(losses(one), abs=TOLERANCE)


def test_the_reference_of_a_fresh_prefix_is_the_model_without_it(make_preferences: MakeJob) -> None:
    plain, prefix = make_preferences("plain"), make_preferences("prefix", adapter=AdapterSpec(kind="prefix"))
    told = []
    for job in (plain, prefix):
        train_alone(job)
        with np.load(job.folder / REFERENCE) as stored:
            told.append(dict(zip(stored["keys"].tolist(), stored["logprobs"].tolist(), strict=True)))

    assert told[1] == pytest.approx(told[0], abs=1e-3)  # sums over an answer's tokens, of hundreds of nats
    assert losses(prefix)[0] != pytest.approx(math.log(2), abs=1e-3)


@pytest.fixture(scope="module")
def make_classifiers(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make(name, adapter)`: a classifier of four kinds of questions."""
    folder, labels = tmp_path_factory.mktemp("classifiers"), ("fares", "rules", "stations", "trains")
    (folder / "epoch").write_text("test")
    with open(root / "recipes" / "northline" / "intents.csv", encoding="utf-8", newline="") as stream:
        rows = [row for row in list(csv.reader(stream))[1::3] if row[1] in labels]
    file = folder / "questions.csv"
    with open(file, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("text", "label"), *rows])
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    write_tokens(folder / "tokens", grouped(encode(read_file(file)[1], tokenizer, max_length=64), labels))

    def make(name: str, adapter: AdapterSpec) -> StageJob:
        told = {"name": name, "kind": "classify", "data": "q.csv", "labels": labels, "max_steps": 4, "lr": 1e-3}
        spec = ClassifyStage.model_validate(told | {"batch": {"sequences": 12}, "checkpoint": {"every": 2}})
        return stage_job(spec, folder, adapter=adapter, max_length=64, labels=labels)

    return make


@pytest.mark.timeout(600)
def test_classifiers_train_their_head_beside_any_adapter_on_one_worker_and_two(make_classifiers: MakeJob) -> None:
    kinds = {"bottleneck": {"kind": "bottleneck"}, "prompt": {"kind": "prompt"}, "four": LORA | {"bits": 4}}
    jobs = {name: make_classifiers(name, AdapterSpec.model_validate(told)) for name, told in kinds.items()}
    two = {name: again(job, "two") for name, job in jobs.items()}
    for job in jobs.values():
        train_alone(job)
    train_together([(job, 2) for job in two.values()])

    for name, job in jobs.items():
        assert losses(two[name]) == pytest.approx(losses(job), abs=TOLERANCE), name
        assert losses(cut_off(job, 2)) == losses(job), name
        assert json.loads((job.artifact / "adapter_config.json").read_text())["task_type"] == "SEQ_CLS"
