"""Classifiers: the same numbers however the work is split, frozen layers that stay, labels that come and go."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import pipeline

from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import grouped, write_tokens
from fettle.errors import UserError
from fettle.models import adapters
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.models.label_rows import head_rows
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.kinds import ClassifyStage
from fettle.recipe.stages import BatchSpec
from fettle.train.classify import ClassifyTask
from fettle.train.job import StageJob
from fettle.train.param_groups import LayerRates
from gloo import cut_off, losses, stage_job, train_alone, train_together

STEPS = 6
# float32, sums in another order: the largest difference seen is 2e-6 nats.
TOLERANCE = 2e-5
LORA = AdapterSpec(kind="lora", r=4, alpha=8)
FOUR = ("fares", "rules", "stations", "trains")
TWO = ("trains", "rules")
SIX = ("club", "trains", "travel", "rules", "fares", "parcels")
GRADUAL: dict[str, Any] = {"unfreeze": 2, "layer_decay": 0.5}

MakeJob = Callable[..., StageJob]


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make_job(name, …)`: a classifier of Northline's questions with one of three sets of labels."""
    folder = tmp_path_factory.mktemp("classify")
    (folder / "epoch").write_text("test")
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    with open(root / "recipes" / "northline" / "intents.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    for labels in (FOUR, TWO, SIX):
        mine = [row for row in rows[::3] if row[1] in labels]
        file = folder / f"{len(labels)}.csv"
        with open(file, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *mine])
        examples = grouped(encode(read_file(file)[1], tokenizer, max_length=64), labels)
        write_tokens(folder / f"tokens-{len(labels)}", examples)

    def make(
        name: str,
        labels: Sequence[str] = FOUR,
        *,
        base: Path = BUNDLED["tiny"],
        adapter: AdapterSpec = FULL,
        packing: bool = True,
        accumulate: int = 1,
        **keys: Any,
    ) -> StageJob:
        spec = ClassifyStage(
            name=name,
            kind="classify",
            data="intents.csv",
            labels=tuple(labels),
            max_steps=STEPS,
            batch=BatchSpec(sequences=12, accumulate=accumulate),
            packing=packing,
            lr=1e-3,
            checkpoint={"every": 2},
            **keys,
        )
        tokens = ((folder / f"tokens-{len(labels)}",),)
        told = {"tokens": tokens, "max_length": 64, "labels": tuple(labels)}
        return stage_job(spec, folder, base=base, adapter=adapter, **told)

    return make


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: the references, and what differs in packing or accumulation."""
    jobs = {
        "all": make_job("all"),
        "gradual": make_job("gradual", **GRADUAL),
        "gradual padded": make_job("gradual-padded", packing=False, **GRADUAL),
        "gradual accumulated": make_job("gradual-accumulated", accumulate=4, **GRADUAL),
        "head": make_job("head", unfreeze="head"),
        "lora": make_job("lora", adapter=LORA),
    }
    return {name: train_alone(job) for name, job in jobs.items()}


@pytest.fixture(scope="module")
def together(make_job: MakeJob, alone: dict[str, StageJob]) -> dict[str, StageJob]:
    """Two workers at each ZeRO stage."""
    rows = {"base": alone["all"].artifact, "labels": SIX}
    jobs = {
        "gradual zero-0": (make_job("two-zero-0", **GRADUAL), 0),
        # 12 texts over 2 × 8 micro-batches: some workers' micro-batches are empty.
        "gradual zero-2": (make_job("two-zero-2", accumulate=8, **GRADUAL), 2),
        "gradual zero-3": (make_job("two-zero-3", **GRADUAL), 3),
        "all zero-3": (make_job("two-all", packing=False), 3),
        "head zero-2": (make_job("two-head", unfreeze="head"), 2),
        "lora zero-2": (make_job("two-lora", adapter=LORA), 2),
        "rows zero-3": (make_job("two-rows", **rows), 3),
    }
    train_together(list(jobs.values()))
    return {name: job for name, (job, _) in jobs.items()}


@pytest.mark.parametrize("case", ["padded", "accumulated"])
def test_packing_and_accumulation_leave_the_losses_alone(alone: dict[str, StageJob], case: str) -> None:
    assert losses(alone[f"gradual {case}"]) == pytest.approx(losses(alone["gradual"]), abs=TOLERANCE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "case", ["gradual zero-0", "gradual zero-2", "gradual zero-3", "all zero-3", "head zero-2", "lora zero-2"]
)
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone[case.split()[0]]), abs=TOLERANCE)


def test_training_raises_the_accuracy(alone: dict[str, StageJob]) -> None:
    told = losses(alone["all"])

    assert told[STEPS - 1] < told[0] - 0.3


@pytest.mark.parametrize(
    ("case", "learning"),
    [
        ("gradual", ("score.", "model.layers.4.", "model.layers.5.", "model.norm.")),
        ("gradual zero-3", ("score.", "model.layers.4.", "model.layers.5.", "model.norm.")),
        ("head", ("score.",)),
        ("head zero-2", ("score.",)),
    ],
)
def test_frozen_weights_are_those_of_the_base_bit_for_bit(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str, learning: tuple[str, ...]
) -> None:
    before = weights_of(BUNDLED["tiny"])
    after = weights_of((alone | together)[case].artifact)

    moved = [name for name, weight in after.items() if name not in before or not torch.equal(weight, before[name])]
    # The norm's weights, above 1, move by less than a step of the bfloat16 they are written in.
    assert {part for part in learning for name in moved if name.startswith(part)} >= {*learning} - {"model.norm."}
    assert all(name.startswith(learning) for name in moved)


@pytest.mark.parametrize("case", ["gradual", "lora"])
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], case: str) -> None:
    job = cut_off(alone[case], 4)

    assert losses(job) == losses(alone[case])


def test_transformers_gives_the_same_labels_and_scores(alone: dict[str, StageJob]) -> None:
    folder = alone["all"].artifact
    texts = ["When does the Heron leave?", "How much does a seat cost?", "May I bring my dog?"]
    task = ClassifyTask(FOUR, LayerRates(), max_length=64, packing=True, pad_id=0, seed=0)
    model, tokenizer = task.load(folder, torch.float32).eval(), load_tokenizer(folder)
    ours = []
    for text in texts:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            scores = model(input_ids=ids, position_ids=torch.arange(ids.shape[1])[None])[0, -1].softmax(-1)
        ours.append((FOUR[int(scores.argmax())], float(scores.max())))

    classifier = pipeline("text-classification", model=str(folder), dtype=torch.float32)
    theirs = [(one["label"], one["score"]) for one in classifier(texts, batch_size=3)]

    assert [label for label, _ in theirs] == [label for label, _ in ours]
    assert [score for _, score in theirs] == pytest.approx([score for _, score in ours], abs=1e-5)


def test_shared_labels_keep_their_rows_from_four_to_two_to_six(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    four = alone["all"].artifact
    two = train_alone(make_job("two", TWO, base=four)).artifact
    heads = [weights_of(four)["score.weight"], weights_of(two)["score.weight"]]

    def begun(labels: Sequence[str], base: Path) -> dict[str, torch.Tensor]:
        task = ClassifyTask(labels, LayerRates(), max_length=64, packing=True, pad_id=0, seed=5)
        return dict(zip(labels, task.load(base, torch.float32).score.weight, strict=True))

    at_two, at_six = begun(TWO, four), begun(SIX, two)
    assert all(torch.equal(at_two[label], heads[0][FOUR.index(label)].float()) for label in TWO)
    assert all(torch.equal(at_six[label], heads[1][TWO.index(label)].float()) for label in TWO)
    # "fares" was lost on the way: the two-label classifier no longer knows it.
    fresh = begun(SIX, BUNDLED["tiny"])
    assert all(torch.equal(at_six[label], fresh[label]) for label in SIX if label not in TWO)


def test_an_adapter_carries_the_rows_of_shared_labels_over_too(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    told = dataclasses.replace(make_job("lora-six", SIX, adapter=LORA), from_adapter=alone["lora"].artifact)
    task = ClassifyTask(SIX, LayerRates(), max_length=64, packing=True, pad_id=0, seed=5)
    model = adapters.resume(task.load(told.base, torch.float32), alone["lora"].artifact)
    rows = model.get_base_model().score.modules_to_save["default"].weight

    earlier = head_rows(alone["lora"].artifact)["weight"]
    assert all(
        torch.equal(rows[SIX.index(label)], earlier[FOUR.index(label)]) for label in ("trains", "rules", "fares")
    )
    assert len(losses(train_alone(told))) == STEPS + 4


def test_the_same_labels_in_another_order_begin_with_the_same_scores(
    alone: dict[str, StageJob], make_job: MakeJob
) -> None:
    turned = ClassifyTask(FOUR[::-1], LayerRates(), max_length=64, packing=True, pad_id=0, seed=5)
    model = turned.load(alone["all"].artifact, torch.float32)

    assert torch.equal(model.score.weight.flip(0), weights_of(alone["all"].artifact)["score.weight"].float())


@pytest.mark.timeout(300)
def test_rows_are_carried_over_with_zero_3_too(
    alone: dict[str, StageJob], together: dict[str, StageJob], make_job: MakeJob
) -> None:
    job = train_alone(make_job("rows", SIX, base=alone["all"].artifact))

    assert losses(together["rows zero-3"]) == pytest.approx(losses(job), abs=TOLERANCE)


def test_too_few_steps_to_unfreeze_all_layers_are_told(make_job: MakeJob) -> None:
    with pytest.raises(UserError, match="6 steps are too few to unfreeze 6 layers"):
        train_alone(make_job("too-few", unfreeze=6))
