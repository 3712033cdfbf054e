"""Encoders: masked pre-training and heads; transformers' own losses, the same however the work is split."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from safetensors.torch import load_file
from small_encoders import write_encoder
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from fettle.artifact import read_artifact
from fettle.data.batches import IGNORE
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import grouped, write_tokens
from fettle.models import adapters
from fettle.models.base import load_tokenizer
from fettle.models.heads import rows_of
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.kinds import ClassifyStage, PretrainStage, RewardStage
from fettle.recipe.stages import BatchSpec
from fettle.train.classify import ClassifyTask
from fettle.train.curriculum import curriculum
from fettle.train.job import StageJob
from fettle.train.masked import MaskedTask
from fettle.train.param_groups import LayerRates
from fettle.train.progress import curve
from gloo import cut_off, losses, stage_job, train_alone, train_together

STEPS = 6
# float32, sums in another order: the largest difference seen is 3e-6 nats.
TOLERANCE = 2e-5
LORA = AdapterSpec(kind="lora", r=4, alpha=8)
FOUR = ("fares", "rules", "stations", "trains")
TWO = ("trains", "rules")
SIX = ("club", "trains", "travel", "rules", "fares", "parcels")
GRADUAL: dict[str, Any] = {"unfreeze": 1, "layer_decay": 0.5}

MakeJob = Callable[..., StageJob]


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small BERT, and Northline's papers, questions and preferences as it reads them."""
    folder, northline = tmp_path_factory.mktemp("encoders"), root / "recipes" / "northline"
    (folder / "epoch").write_text("test")
    papers = sorted((northline / "corpus").glob("*.txt"))
    tokenizer = load_tokenizer(write_encoder(folder / "base", [paper.read_text() for paper in papers]))
    lines = folder / "lines.txt"  # of different lengths
    lines.write_text("\n".join(line for paper in papers for line in paper.read_text().splitlines() if line))
    records = [*read_file(lines)[1], *(record for paper in papers for record in read_file(paper)[1])]
    write_tokens(folder / "pretrain", encode(records, tokenizer, max_length=48))
    with open(northline / "intents.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))[1:]
    for labels in (FOUR, TWO, SIX):
        file = folder / f"{len(labels)}.csv"
        with open(file, "w", encoding="utf-8", newline="") as stream:
            csv.writer(stream).writerows([("text", "label"), *(row for row in rows[::3] if row[1] in labels)])
        examples = grouped(encode(read_file(file)[1], tokenizer, max_length=48), labels)
        write_tokens(folder / f"classify-{len(labels)}", examples)
    return folder


@pytest.fixture(scope="module")
def make_job(folder: Path) -> MakeJob:
    """`make_job(name, kind, …)`: a stage of the small BERT, differing in one thing."""

    def make(
        name: str,
        kind: str = "pretrain",
        *,
        labels: tuple[str, ...] = FOUR,
        base: Path = folder / "base",
        adapter: AdapterSpec = FULL,
        packing: bool | None = None,
        accumulate: int = 1,
        **keys: Any,
    ) -> StageJob:
        batch = BatchSpec(sequences=12, accumulate=accumulate)
        shared: dict[str, Any] = {"name": name, "kind": kind, "data": "data", "max_steps": STEPS, "lr": 1e-2}
        shared |= {"packing": packing, "batch": batch, "checkpoint": {"every": 2}}
        if kind == "pretrain":
            spec, tokens = PretrainStage(objective="masked", **shared, **keys), "pretrain"
        else:
            spec, tokens = ClassifyStage(labels=labels, **shared, **keys), f"classify-{len(labels)}"
        told: dict[str, Any] = {"tokens": ((folder / tokens,),), "end_ids": (), "max_length": 48}
        return stage_job(spec, folder, base=base, adapter=adapter, labels=labels if kind == "classify" else (), **told)

    return make


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: the references, and what differs in packing or accumulation."""
    jobs = {
        "masked": make_job("masked"),
        "masked padded": make_job("padded", packing=False),
        "masked accumulated": make_job("accumulated", accumulate=4),
        "masked lora": make_job("lora", adapter=LORA),
        "classify": make_job("sort", "classify"),
        "classify accumulated": make_job("sort-accumulated", "classify", accumulate=4),
        "gradual": make_job("sort-gradual", "classify", **GRADUAL),
        "head": make_job("sort-head", "classify", unfreeze="head"),
        "classify lora": make_job("sort-lora", "classify", adapter=LORA),
    }
    return {name: train_alone(job) for name, job in jobs.items()}


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[str, StageJob]:
    """Two workers at each ZeRO stage."""
    jobs = {
        "masked": (make_job("two-zero-0"), 0),
        # 12 texts over 2 × 8 micro-batches: some workers' micro-batches are empty.
        "masked accumulated": (make_job("two-zero-1", accumulate=8), 1),
        "masked padded": (make_job("two-zero-2", packing=False), 2),
        "masked zero-3": (make_job("two-zero-3"), 3),
        "masked lora": (make_job("two-lora", adapter=LORA), 2),
        "classify": (make_job("two-sort", "classify", accumulate=8), 2),
        "classify zero-3": (make_job("two-sort-zero-3", "classify"), 3),
        "gradual": (make_job("two-sort-gradual", "classify", **GRADUAL), 1),
        "classify lora": (make_job("two-sort-lora", "classify", adapter=LORA), 2),
    }
    train_together(list(jobs.values()))
    return {name: job for name, (job, _) in jobs.items()}


@pytest.mark.parametrize("case", ["masked padded", "masked accumulated", "classify accumulated"])
def test_packing_and_accumulation_leave_the_losses_alone(alone: dict[str, StageJob], case: str) -> None:
    assert losses(alone[case]) == pytest.approx(losses(alone[case.split()[0]]), abs=TOLERANCE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("case", "reference"),
    [
        *[(case, "masked") for case in ("masked", "masked accumulated", "masked padded", "masked zero-3")],
        *[("masked lora", "masked lora"), ("classify", "classify"), ("classify zero-3", "classify")],
        *[("gradual", "gradual"), ("classify lora", "classify lora")],
    ],
)
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str, reference: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone[reference]), abs=TOLERANCE)


@pytest.mark.parametrize("case", ["masked", "masked lora", "gradual", "classify lora"])
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], case: str) -> None:
    assert losses(cut_off(alone[case], 4)) == losses(alone[case])


def test_masked_training_lowers_the_heldout_loss(alone: dict[str, StageJob]) -> None:
    told = read_artifact(alone["masked"].artifact).metrics

    assert told["loss"]["heldout_after"] < told["loss"]["heldout_before"] - 0.2
    # 15 % of the tokens of texts bear loss; [CLS] and [SEP] do not count among them.
    assert 0.1 < told["tokens"]["loss_bearing"] / told["tokens"]["all"] < 0.15


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra", "modernbert"])
def test_the_masked_loss_is_that_of_transformers_on_the_same_hidden_tokens(
    root: Path, tmp_path: Path, kind: str
) -> None:
    paper = root / "recipes" / "northline" / "corpus" / "handbook.txt"
    base = write_encoder(tmp_path, [paper.read_text()], kind)
    examples = [*encode(read_file(paper)[1], load_tokenizer(base), max_length=64)][:5]
    rows: dict[str, Any] = {"rate": 0.15, "max_length": 64, "pad_id": 0, "seed": 1}
    padded, packed = (MaskedTask(**rows, packing=packing) for packing in (False, True))
    ours, theirs = padded.load(base, torch.float32).eval(), AutoModelForMaskedLM.from_pretrained(base).eval()
    batch = padded.collate(examples, step=3)

    with torch.no_grad():
        expected = theirs(**batch).loss * (batch["labels"] != IGNORE).sum()
        found = [padded.loss_sum(ours, batch)]
        if kind != "modernbert":
            found.append(packed.loss_sum(packed.load(base, torch.float32).eval(), packed.collate(examples, step=3)))

    assert [float(loss) for loss in found] == pytest.approx([float(expected)] * len(found), rel=1e-6)


def scores_of(model: Any, tokenizer: Any, texts: list[str]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**tokenizer(texts, padding=True, return_tensors="pt")).logits
    return found


@pytest.mark.parametrize("case", ["classify", "classify lora"])
def test_transformers_gives_the_heldout_loss_of_the_artifact(alone: dict[str, StageJob], case: str) -> None:
    job = alone[case]
    kind = AutoPeftModelForSequenceClassification if "lora" in case else AutoModelForSequenceClassification
    more = {"num_labels": 4} if "lora" in case else {}
    model, tokenizer = kind.from_pretrained(job.artifact, **more), load_tokenizer(job.artifact)
    records = list(read_file(job.folder.parent / "4.csv")[1])
    labels = torch.tensor([FOUR.index(str(record.label)) for record in records])
    scores = scores_of(model, tokenizer, [str(record.text) for record in records])

    of_text = {tuple(tokenizer(str(record.text))["input_ids"]): place for place, record in enumerate(records)}
    mine = [of_text[tuple(example.input_ids.tolist())] for example in curriculum(job).heldout]
    expected = torch.nn.functional.cross_entropy(scores[mine], labels[mine])

    assert read_artifact(job.artifact).metrics["loss"]["heldout_after"] == pytest.approx(float(expected), abs=1e-5)


def test_frozen_weights_are_those_of_the_base_bit_for_bit(folder: Path, alone: dict[str, StageJob]) -> None:
    before = load_file(folder / "base" / "model.safetensors")
    head = ("classifier.", "bert.pooler.")
    for case, learning in {"head": head, "gradual": (*head, "bert.encoder.layer.1.")}.items():
        after = load_file(alone[case].artifact / "model.safetensors")
        moved = [name for name, weight in after.items() if name not in before or not torch.equal(weight, before[name])]

        assert {part for part in learning for name in moved if name.startswith(part)} == {*learning}
        assert all(name.startswith(learning) for name in moved)


def begun(labels: tuple[str, ...], job: StageJob) -> dict[str, list[float]]:
    """The rows, with their biases, that a classifier of these labels begins with from another's artifact."""
    task = ClassifyTask(labels, LayerRates(), max_length=48, packing=False, pad_id=0, seed=5)
    if read_artifact(job.artifact).base is None:
        rows = rows_of(task.load(job.artifact, torch.float32))
    else:
        model = adapters.resume(task.load(job.base, torch.float32), job.artifact)
        rows = model.get_base_model().classifier.modules_to_save["default"]
    both = torch.cat([rows.weight, rows.bias[:, None]], 1)
    return dict(zip(labels, both.tolist(), strict=True))


@pytest.mark.parametrize("case", ["classify", "classify lora"])
def test_shared_labels_keep_their_rows_from_four_to_two_to_six(
    alone: dict[str, StageJob], make_job: MakeJob, case: str
) -> None:
    four = alone[case]
    more: dict[str, Any] = {"base": four.artifact} if case == "classify" else {"adapter": LORA}
    two = make_job(f"{case.replace(' ', '-')}-two", "classify", labels=TWO, **more)
    if case != "classify":
        two = dataclasses.replace(two, from_adapter=four.artifact)
    train_alone(two)

    earlier, at_two = begun(FOUR, four), begun(TWO, four)
    assert at_two == {label: earlier[label] for label in TWO}
    later, at_six = begun(TWO, two), begun(SIX, two)
    assert {label: at_six[label] for label in TWO} == later
    # "fares" was lost on the way: the two-label classifier no longer knows it.
    assert at_six["fares"] != earlier["fares"]


def test_a_classifier_begins_from_masked_pre_training(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    pretrained = alone["masked"].artifact
    job = train_alone(make_job("after", "classify", base=pretrained, unfreeze="head"))

    before, after = (load_file(one / "model.safetensors") for one in (pretrained, job.artifact))
    body = {name: weight for name, weight in before.items() if name.startswith("bert.")}
    assert read_artifact(job.artifact).kind == "classifier"
    assert all(torch.equal(after[name], weight) for name, weight in body.items())


def test_a_reward_model_scores_with_an_encoder(root: Path, folder: Path) -> None:
    records = list(read_file(root / "recipes" / "northline" / "preferences.jsonl")[1])[:40]
    tokenizer = load_tokenizer(folder / "base")
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    write_tokens(folder / "tokens", grouped(encode(records, tokenizer, max_length=64)))
    spec = RewardStage(name="taste", kind="reward", data="data", max_steps=STEPS, batch=BatchSpec(sequences=8), lr=3e-3)
    job = train_alone(stage_job(spec, folder, base=folder / "base", end_ids=(), max_length=64))

    told = read_artifact(job.artifact)
    assert (told.kind, type(AutoModelForSequenceClassification.from_pretrained(job.artifact)).__name__) == (
        "reward",
        "BertForSequenceClassification",
    )
    assert 0 <= told.metrics["measures"]["accuracy"]["after"] <= 1  # of the one record that is held out
    first, *_, last = (row.loss for row in curve(job.progress))
    assert last < first
