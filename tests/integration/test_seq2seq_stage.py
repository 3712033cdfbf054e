"""Encoder-decoder models: answers and span corruption, the same losses however the work is split. No Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSeq2SeqLM
from torch.nn.functional import cross_entropy
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig
from typer.testing import CliRunner

from fettle.artifact import read_artifact
from fettle.cli.main import app
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import TokenSet, write_tokens
from fettle.models.base import load_tokenizer
from fettle.models.merge import Combination, write_merged
from fettle.recipe import PretrainStage, SftStage
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.stages import BatchSpec, TrainingStage
from fettle.train.job import StageJob
from fettle.train.spans import SpanCorruption, sentinels_of
from fettle.train.task import HELDOUT
from gloo import cut_off, losses, train_alone, train_together
from small_t5 import make_bart, make_t5, northline_lines

pytestmark = pytest.mark.timeout(300)  # the first test of a kind waits for all of that kind to be trained
STEPS = 6
TOLERANCE = 2e-5  # float32, sums in another order
LORA = AdapterSpec(kind="lora", r=4, alpha=8)
DORA = AdapterSpec(kind="dora", r=4, alpha=8)
IA3 = AdapterSpec(kind="ia3")
MakeJob = Callable[..., StageJob]


@pytest.fixture(scope="module")
def bases(root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Tiny T5s: without dropout, with it, and one whose output head is not its embeddings, as Flan-T5's."""
    folder, lines = tmp_path_factory.mktemp("t5"), northline_lines(root)
    return {
        "plain": make_t5(folder / "plain", lines),
        "dropout": make_t5(folder / "dropout", lines, dropout=0.1),
        "untied": make_t5(folder / "untied", lines, is_tied=False, feed_forward_proj="gated-gelu"),
    }


@pytest.fixture(scope="module")
def make_job(root: Path, bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make_job(name, …)`: a stage of a tiny T5 on Northline's tasks, or its handbook, differing in one thing."""
    folder = tmp_path_factory.mktemp("seq2seq")
    tokenizer = load_tokenizer(bases["plain"])
    northline = root / "recipes" / "northline"
    for name, file, max_length in (("sft", "tasks.jsonl", 100), ("pretrain", "corpus/handbook.txt", 60)):
        records = list(read_file(northline / file)[1])[:90]
        examples = list(encode(records, tokenizer, max_length=max_length, is_halved=True))
        write_tokens(folder / name, examples[10:])
        write_tokens(folder / f"{name}-heldout", examples[:10])
    (folder / "epoch").write_text("test")

    def make(
        name: str,
        *,
        kind: str = "sft",
        base: str = "plain",
        accumulate: int = 1,
        adapter: AdapterSpec = FULL,
        **keys: Any,
    ) -> StageJob:
        common: dict[str, Any] = {
            "name": name,
            "kind": kind,
            "data": "tasks.jsonl",
            "max_steps": STEPS,
            "batch": BatchSpec(sequences=6, accumulate=accumulate),
            "lr": 1e-2,
            "checkpoint": {"every": 2},
        }
        spec: TrainingStage
        spec = SftStage(**common, **keys) if kind == "sft" else PretrainStage(**common, objective="span", **keys)
        return StageJob(
            name=name,
            fingerprint=name,
            spec=spec,
            adapter=adapter,
            seed=3,
            base=bases[base],
            from_adapter=None,
            tokens=((folder / kind,),),
            streams=(),
            weights=(1.0,),
            heldout=(folder / f"{kind}-heldout",),
            max_length=100,
            precision="fp32",
            folder=folder / name,
            artifact=folder / f"{name}-artifact",
            recipe="",
            data=(),
            end_ids=(1,),
            pad_id=0,
        )

    return make


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: the references, and what differs in accumulation."""
    jobs = {
        "sft": make_job("sft"),
        "sft accumulated": make_job("sft-accumulated", accumulate=4),
        "sft dropout": make_job("sft-dropout", base="dropout"),
        "sft lora": make_job("sft-lora", adapter=LORA),
        "sft dora": make_job("sft-dora", adapter=DORA),
        "sft ia3": make_job("sft-ia3", adapter=IA3),
        "sft untied": make_job("sft-untied", base="untied"),
        "span": make_job("span", kind="pretrain"),
        "span accumulated": make_job("span-accumulated", kind="pretrain", accumulate=3),
        "span dropout": make_job("span-dropout", kind="pretrain", base="dropout"),
    }
    for job in jobs.values():
        train_alone(job)
    return jobs


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[str, StageJob]:
    """Two workers, at each ZeRO stage."""
    jobs = {
        "sft zero-0": (make_job("two-sft-zero-0"), 0),
        "sft zero-1": (make_job("two-sft-zero-1"), 1),
        # 6 records over 2 × 5 micro-batches: some are empty.
        "sft zero-2 accumulated": (make_job("two-sft-zero-2", accumulate=5), 2),
        "sft zero-3": (make_job("two-sft-zero-3"), 3),
        "sft lora zero-2": (make_job("two-lora-zero-2", adapter=LORA), 2),
        "sft lora zero-3": (make_job("two-lora-zero-3", adapter=LORA), 3),
        "span zero-0": (make_job("two-span-zero-0", kind="pretrain"), 0),
        "span zero-2 accumulated": (make_job("two-span-zero-2", kind="pretrain", accumulate=5), 2),
        "span zero-3": (make_job("two-span-zero-3", kind="pretrain"), 3),
    }
    train_together(list(jobs.values()))
    return {name: job for name, (job, _) in jobs.items()}


@pytest.mark.parametrize(("case", "reference"), [("sft accumulated", "sft"), ("span accumulated", "span")])
def test_accumulation_leaves_the_losses_alone(alone: dict[str, StageJob], case: str, reference: str) -> None:
    assert losses(alone[case]) == pytest.approx(losses(alone[reference]), abs=TOLERANCE)


@pytest.mark.parametrize(
    ("case", "reference"),
    [
        ("sft zero-0", "sft"),
        ("sft zero-1", "sft"),
        ("sft zero-2 accumulated", "sft"),
        ("sft zero-3", "sft"),
        ("sft lora zero-2", "sft lora"),
        ("sft lora zero-3", "sft lora"),
        ("span zero-0", "span"),
        ("span zero-2 accumulated", "span"),
        ("span zero-3", "span"),
    ],
)
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str, reference: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone[reference]), abs=TOLERANCE)


@pytest.mark.parametrize("case", ["sft dropout", "sft lora", "span dropout"])
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], case: str) -> None:
    assert losses(cut_off(alone[case], step=4)) == losses(alone[case])


@pytest.mark.parametrize("case", ["sft", "sft lora", "sft dora", "sft ia3", "sft untied", "span"])
def test_training_lowers_the_heldout_loss(alone: dict[str, StageJob], case: str) -> None:
    loss = read_artifact(alone[case].artifact).metrics["loss"]

    assert loss["heldout_after"] < loss["heldout_before"]


def test_span_corruption_takes_the_models_dropout_out_and_leaves_it_in_the_artifact(alone: dict[str, StageJob]) -> None:
    # Both bases have the same weights. Fine-tuning keeps dropout.
    assert losses(alone["span dropout"]) == losses(alone["span"])
    assert losses(alone["sft dropout"]) != losses(alone["sft"])
    assert AutoModelForSeq2SeqLM.from_pretrained(alone["span dropout"].artifact).config.dropout_rate == 0.1


def mean_loss(model: Any, job: StageJob) -> float:
    """By transformers' own loss, an example at a time, over the tokens of all held-out answers."""
    total, count = 0.0, 0
    for example in TokenSet(*job.heldout):
        ids, learned = torch.from_numpy(example.input_ids.copy()).long(), torch.from_numpy(example.loss_mask.copy())
        labels = ids[learned][None]
        with torch.no_grad():
            total += float(model(input_ids=ids[~learned][None], labels=labels).loss) * labels.numel()
        count += labels.numel()
    return total / count


@pytest.mark.parametrize("case", ["sft", "sft untied"])
def test_the_loss_is_transformers_own_of_the_base_and_of_the_artifact(alone: dict[str, StageJob], case: str) -> None:
    job = alone[case]

    found = [
        mean_loss(AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), job) for folder in (job.base, job.artifact)
    ]

    loss = read_artifact(job.artifact).metrics["loss"]
    assert found == pytest.approx([loss["heldout_before"], loss["heldout_after"]], abs=TOLERANCE)


@pytest.mark.parametrize("case", ["sft lora", "sft dora", "sft ia3"])
def test_an_adapter_and_its_merged_weights_have_the_same_loss_and_say_the_same(
    alone: dict[str, StageJob], tmp_path: Path, case: str
) -> None:
    job = alone[case]
    write_merged(
        tmp_path / "merged",
        Combination(job.base, (job.artifact,), (1.0,)),
        name="merged",
        fingerprint="merged",
        end_ids=job.end_ids,
        chat_template=None,
    )

    adapter = AutoPeftModelForSeq2SeqLM.from_pretrained(job.artifact).eval()
    merged = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged").eval()

    wanted = read_artifact(job.artifact).metrics["loss"]["heldout_after"]
    assert [mean_loss(model, job) for model in (adapter, merged)] == pytest.approx([wanted, wanted], abs=TOLERANCE)
    given = AutoTokenizer.from_pretrained(job.artifact)("Give me the first sentence.", return_tensors="pt")
    said = [model.generate(**given, max_new_tokens=12, do_sample=False).tolist() for model in (adapter, merged)]
    assert said[0] == said[1]


def test_the_merge_verb_does_not_offer_to_serve_what_vllm_does_not(alone: dict[str, StageJob], tmp_path: Path) -> None:
    told = CliRunner().invoke(app, ["merge", str(alone["sft lora"].artifact), "--out", str(tmp_path / "m")])
    assert told.exit_code == 0 and "artifact  " in told.output and "serve it" not in told.output


@pytest.mark.parametrize("case", ["sft", "sft lora"])
def test_an_artifact_says_how_to_generate(alone: dict[str, StageJob], case: str) -> None:
    told = GenerationConfig.from_pretrained(alone[case].artifact)

    assert (told.decoder_start_token_id, told.eos_token_id, told.pad_token_id) == (0, [1], 0)


def test_a_stage_goes_on_from_an_adapter(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    job = dataclasses.replace(make_job("continued", adapter=LORA), from_adapter=alone["sft lora"].artifact)

    train_alone(job)

    before, after = (read_artifact(one.artifact).metrics["loss"] for one in (alone["sft lora"], job))
    assert after["heldout_before"] == pytest.approx(before["heldout_after"], abs=TOLERANCE)


def test_the_span_loss_is_that_of_the_corrupted_text(alone: dict[str, StageJob]) -> None:
    job = alone["span"]
    spans = SpanCorruption(0.15, 3.0, sentinels_of(load_tokenizer(job.base)), 1, job.seed)
    model = AutoModelForSeq2SeqLM.from_pretrained(job.base).eval()
    total, count = 0.0, 0
    for example in TokenSet(*job.heldout):
        read, written = (torch.from_numpy(half).long() for half in spans.halves(example, HELDOUT))
        given = torch.cat([torch.tensor([0]), written[:-1]])[None]
        with torch.no_grad():
            logits = model(input_ids=read[None], decoder_input_ids=given).logits[0]
        total += float(cross_entropy(logits, written, reduction="sum"))
        count += len(written)

    wanted = read_artifact(job.artifact).metrics["loss"]["heldout_before"]
    assert total / count == pytest.approx(wanted, abs=TOLERANCE)


@pytest.mark.parametrize("family", ["mt5", "umt5", "bart"])
def test_other_families_are_trained_alike(root: Path, make_job: MakeJob, tmp_path: Path, family: str) -> None:
    lines = northline_lines(root)
    base = make_bart(tmp_path / family, lines) if family == "bart" else make_t5(tmp_path / family, lines, family=family)
    tokenizer = load_tokenizer(base)
    records = list(read_file(root / "recipes" / "northline" / "tasks.jsonl")[1])[:30]
    examples = list(encode(records, tokenizer, max_length=100, is_halved=True))
    for name, part in (("tokens", examples[5:]), ("heldout", examples[:5])):
        write_tokens(tmp_path / name, part)
    told = {"base": base, "tokens": ((tmp_path / "tokens",),), "heldout": (tmp_path / "heldout",)}
    ids = {"pad_id": int(tokenizer.pad_token_id), "end_ids": (int(tokenizer.eos_token_id),)}
    job = dataclasses.replace(make_job(f"sft-{family}"), **told, **ids)

    train_alone(job)

    loss = read_artifact(job.artifact).metrics["loss"]
    assert loss["heldout_after"] < loss["heldout_before"]
    artifact = AutoModelForSeq2SeqLM.from_pretrained(job.artifact).eval()
    assert mean_loss(artifact, job) == pytest.approx(loss["heldout_after"], abs=TOLERANCE)
