"""The same tokens give the same losses, however the work is split. Two gloo processes: Ray takes half a minute more."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fettle.artifact import read_artifact
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.line_index import StreamedSource, fill_index
from fettle.data.tokens import write_tokens
from fettle.models.base import BUNDLED, dtype_of, load_tokenizer, template_in
from fettle.pipeline.prepare import end_ids
from fettle.recipe import SftStage
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.data import DataSpec, FormatName
from fettle.recipe.stages import BatchSpec
from fettle.train.job import StageJob
from gloo import (
    again,
    cut_off,
    interrupted_together,
    losses,
    stage_job,
    stop_alone,
    train_alone,
    train_together,
)

STEPS = 6
# float32, sums in another order: the largest difference seen is 2e-6 nats.
TOLERANCE = 2e-5
LORA = AdapterSpec(kind="lora", r=4, alpha=8)

MakeJob = Callable[..., StageJob]


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make_job(name, …)`: an sft stage of the tiny model on Northline's conversations, differing in one thing."""
    folder = tmp_path_factory.mktemp("matrix")
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    records = list(read_file(root / "recipes" / "northline" / "chat.jsonl")[1])[:300]
    tokens = write_tokens(folder / "tokens", encode(records, tokenizer, max_length=128))
    write_tokens(folder / "heldout", [tokens[place] for place in range(10)])
    (folder / "epoch").write_text("test")

    chats = _streamed(root / "recipes" / "northline" / "chat.jsonl", folder, "messages")
    # Lines longer than a row, so that a step, and a checkpoint, falls between the parts of one.
    lines = _streamed(_long_lines(root, folder), folder, "text")

    def make(
        name: str,
        *,
        packing: bool = True,
        accumulate: int = 1,
        adapter: AdapterSpec = FULL,
        streaming: bool = False,
    ) -> StageJob:
        spec = SftStage(
            name=name,
            kind="sft",
            data="chat.jsonl",
            max_steps=STEPS,
            batch=BatchSpec(sequences=12, accumulate=accumulate),
            packing=packing,
            lr=1e-3,
            streaming=streaming,
            checkpoint={"every": 2},
        )
        if streaming:
            told = {"tokens": (), "streams": (chats, lines), "weights": (1.0, 0.5), "heldout": (folder / "heldout",)}
        else:
            told = {}
        return stage_job(spec, folder, adapter=adapter, end_ids=end_ids(tokenizer), **told)

    return make


def _streamed(file: Path, folder: Path, format_: FormatName) -> StreamedSource:
    index = folder / f"{file.name}-index"
    index.mkdir()
    fill_index(index, file)
    return StreamedSource(DataSpec(path=file.name, split="lines", format=format_), (file,), (index,))


def _long_lines(root: Path, folder: Path) -> Path:
    words = (root / "recipes" / "northline" / "corpus" / "handbook.txt").read_text().split()
    lines = [" ".join(words[at : at + 40 * (1 + at // 100 % 8)]) for at in range(0, len(words), 100)]
    (folder / "lines.txt").write_text("\n".join(lines))
    return folder / "lines.txt"


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: the reference, and what differs in packing or accumulation."""
    jobs = {
        "reference": make_job("reference"),
        "padded": make_job("padded", packing=False),
        "accumulated": make_job("accumulated", accumulate=4),
        "lora": make_job("lora", adapter=LORA),
        "streamed": make_job("streamed", streaming=True),
    }
    for job in jobs.values():
        train_alone(job)
    return jobs


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[str, StageJob]:
    """Two workers: each ZeRO stage, and adapters."""
    jobs = {
        "zero-0": (make_job("two-zero-0"), 0),
        "zero-2": (make_job("two-zero-2"), 2),
        # 12 examples over 2 × 8 micro-batches: some workers' micro-batches are empty.
        "zero-2 accumulated": (make_job("two-zero-2-accumulated", accumulate=8), 2),
        "zero-2 padded": (make_job("two-zero-2-padded", packing=False), 2),
        "zero-3": (make_job("two-zero-3"), 3),
        "lora zero-2": (make_job("two-lora", adapter=LORA), 2),
        "streamed zero-0": (make_job("two-streamed", streaming=True), 0),
    }
    train_together(list(jobs.values()))
    return {name: job for name, (job, _) in jobs.items()}


@pytest.mark.parametrize("case", ["padded", "accumulated"])
def test_packing_and_accumulation_leave_the_losses_alone(alone: dict[str, StageJob], case: str) -> None:
    assert losses(alone[case]) == pytest.approx(losses(alone["reference"]), abs=TOLERANCE)


@pytest.mark.parametrize("case", ["zero-0", "zero-2", "zero-2 accumulated", "zero-2 padded", "zero-3"])
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone["reference"]), abs=TOLERANCE)


def test_an_adapter_on_two_workers_has_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob]
) -> None:
    assert losses(together["lora zero-2"]) == pytest.approx(losses(alone["lora"]), abs=TOLERANCE)


def test_two_workers_that_stream_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob]
) -> None:
    assert losses(together["streamed zero-0"]) == pytest.approx(losses(alone["streamed"]), abs=TOLERANCE)


def test_training_lowers_the_heldout_loss(alone: dict[str, StageJob]) -> None:
    told = read_artifact(alone["reference"].artifact).metrics["loss"]

    assert told["heldout_after"] < told["heldout_before"] - 0.2


def test_zero_3_publishes_the_weights_of_one_worker(alone: dict[str, StageJob], together: dict[str, StageJob]) -> None:
    one = load_file(alone["reference"].artifact / "model.safetensors")
    other = load_file(together["zero-3"].artifact / "model.safetensors")

    assert one.keys() == other.keys()
    assert {weights.dtype for weights in one.values()} == {dtype_of(alone["reference"].artifact)}  # as its config says
    # Written in bfloat16, whose step is 1/256 of a value: two float32 weights a hair apart may round to both sides.
    for name, weights in one.items():
        torch.testing.assert_close(other[name].float(), weights.float(), rtol=1 / 100, atol=1e-4)


@pytest.mark.parametrize("case", ["lora", "streamed"])
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], case: str) -> None:
    job = cut_off(alone[case], 4)

    steps = [json.loads(line)["step"] for line in job.progress.read_text().splitlines()]
    assert (steps, losses(job)) == ([1, 2, 3, 4, 5, 6], losses(alone[case]))


@pytest.mark.parametrize(("case", "zero"), [("reference", 2), ("reference", 3), ("lora", 2)])
def test_a_stage_of_one_worker_goes_on_with_two(alone: dict[str, StageJob], case: str, zero: int) -> None:
    job = again(alone[case], f"grown-{zero}")
    stop_alone(job, 2)

    train_together([(job, zero)])

    assert losses(job) == pytest.approx(losses(alone[case]), abs=TOLERANCE)


@pytest.mark.parametrize(("case", "zero"), [("reference", 2), ("lora", 3)])
def test_a_stage_of_two_workers_goes_on_with_one(alone: dict[str, StageJob], case: str, zero: int) -> None:
    job = again(alone[case], f"shrunk-{zero}")
    interrupted_together([(job, zero)])

    train_alone(job)

    assert losses(job) == pytest.approx(losses(alone[case]), abs=TOLERANCE)


def after(job: StageJob, name: str, earlier: StageJob, *, merge_first: bool) -> StageJob:
    """`job` under another name, beginning from the adapter that `earlier` made."""
    spec = job.spec.model_copy(update={"merge_first": merge_first})
    folder = job.folder.with_name(name)
    return dataclasses.replace(
        job, spec=spec, from_adapter=earlier.artifact, folder=folder, artifact=folder.with_name(f"{name}-artifact")
    )


def test_the_same_adapter_goes_on_from_where_it_was(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    job = after(make_job("lora", adapter=LORA), "continued", alone["lora"], merge_first=False)

    train_alone(job)

    told = read_artifact(job.artifact).metrics["loss"]
    assert told["heldout_before"] == pytest.approx(losses(alone["lora"])[-1], abs=TOLERANCE)
    assert told["heldout_after"] < told["heldout_before"]


def test_merge_first_trains_a_fresh_adapter_over_merged_weights(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    job = after(make_job("lora", adapter=LORA), "merged", alone["lora"], merge_first=True)
    train_alone(dataclasses.replace(job, chat_template="{{ messages }}"))

    artifact = read_artifact(job.artifact)
    assert artifact.base is not None
    assert template_in(job.artifact) == template_in(Path(artifact.base["path"])) == "{{ messages }}"
    assert read_artifact(artifact.base["path"]).kind == "model"
    # The merged weights are written in the base's bfloat16.
    assert artifact.metrics["loss"]["heldout_before"] == pytest.approx(losses(alone["lora"])[-1], abs=0.02)


@pytest.mark.timeout(120)
def test_merging_first_works_with_zero_3(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    lora = after(make_job("lora", adapter=LORA), "merged-zero-3", alone["lora"], merge_first=True)
    full = after(make_job("full"), "full-zero-3", alone["lora"], merge_first=True)

    train_together([(lora, 3), (full, 3)])

    expected = losses(alone["lora"])[-1]
    befores = [read_artifact(job.artifact).metrics["loss"]["heldout_before"] for job in (lora, full)]
    # The first begins from merged weights written in the base's bfloat16.
    assert befores == [pytest.approx(expected, abs=0.02), pytest.approx(expected, abs=TOLERANCE)]


def test_full_training_goes_on_from_the_merged_adapter(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    job = after(make_job("full"), "full-after", alone["lora"], merge_first=True)

    train_alone(job)

    artifact = read_artifact(job.artifact)
    assert (artifact.kind, artifact.base) == ("model", None)
    assert artifact.metrics["loss"]["heldout_before"] == pytest.approx(losses(alone["lora"])[-1], abs=TOLERANCE)
