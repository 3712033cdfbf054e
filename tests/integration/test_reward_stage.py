"""A reward model's losses, however the work is split, and what its artifacts score. Two-process gloo, no Ray."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import AutoPeftModelForSequenceClassification
from transformers import AutoModelForSequenceClassification

from fettle.artifact import read_artifact
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import TokenExample, TokenSet, grouped, write_tokens
from fettle.errors import UserError
from fettle.models.adapters import resume
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.kinds import RewardStage
from fettle.recipe.stages import BatchSpec
from fettle.serving.resolve import resolve
from fettle.train.job import StageJob
from fettle.train.reward import RewardTask
from gloo import cut_off, losses, stage_job, train_alone, train_together

STEPS = 6
TOLERANCE = 2e-5  # nats; float32, sums in another order
LORA = AdapterSpec(kind="lora", r=4, alpha=8)

MakeJob = Callable[..., StageJob]


def with_three(record: TokenExample, other: TokenExample) -> TokenExample:
    """The record with a third answer, the other's worse one, and scores: 2, 0.5 and, of every other record, 0.5."""
    parts = [*record.parts, other.parts[1]]
    masks = [*record.part_masks, other.part_masks[1]]
    values = [2.0, 0.5, 0.5 * (len(record.input_ids) % 2)]
    ids, mask = torch.cat([torch.tensor(p) for p in parts]), torch.cat([torch.tensor(m) for m in masks])
    ends = torch.tensor([len(part) for part in parts]).cumsum(0)
    return TokenExample(ids.numpy(), mask.numpy(), ends.numpy(), torch.tensor(values).numpy())


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> MakeJob:
    """`make_job(name, …)`: a reward stage of the tiny model on Northline's preferences, some with a third answer."""
    folder = tmp_path_factory.mktemp("reward")
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    records = list(read_file(root / "recipes" / "northline" / "preferences.jsonl")[1])[:120]
    pairs = list(grouped(encode(records, tokenizer, max_length=64)))
    mixed = [with_three(one, pairs[n - 1]) if n % 3 == 0 else one for n, one in enumerate(pairs)]
    write_tokens(folder / "tokens", mixed)
    (folder / "epoch").write_text("test")

    def make(
        name: str, *, packing: bool = True, accumulate: int = 1, adapter: AdapterSpec = FULL, **keys: Any
    ) -> StageJob:
        spec = RewardStage(
            name=name,
            kind="reward",
            data="x.jsonl",
            max_steps=STEPS,
            batch=BatchSpec(sequences=12, accumulate=accumulate),
            packing=packing,
            lr=5e-4,
            margin=True,
            centre=0.01,
            checkpoint={"every": 2},
        )
        told: dict[str, Any] = {"adapter": adapter, "max_length": 64, "pad_id": int(tokenizer.pad_token_id)}
        return stage_job(spec, folder, **told | keys)

    return make


@pytest.fixture(scope="module")
def alone(make_job: MakeJob) -> dict[str, StageJob]:
    """One worker: the reference, and what differs in packing or accumulation."""
    jobs = {
        "reference": make_job("reference"),
        "padded": make_job("padded", packing=False),
        "accumulated": make_job("accumulated", accumulate=4),
        "lora": make_job("lora", adapter=LORA),
    }
    return {name: train_alone(job) for name, job in jobs.items()}


@pytest.fixture(scope="module")
def together(make_job: MakeJob) -> dict[str, StageJob]:
    """Two workers: each ZeRO stage, and adapters."""
    jobs = {
        "zero-0": (make_job("two-zero-0"), 0),
        "zero-2 accumulated": (make_job("two-zero-2", accumulate=8), 2),  # some micro-batches are empty
        "lora zero-2": (make_job("two-lora", adapter=LORA), 2),
        "zero-3": (make_job("two-zero-3"), 3),
        "lora zero-3": (make_job("two-lora-3", adapter=LORA), 3),
    }
    train_together(list(jobs.values()))
    return {name: job for name, (job, _) in jobs.items()}


@pytest.mark.parametrize("case", ["padded", "accumulated"])
def test_packing_and_accumulation_leave_the_losses_alone(alone: dict[str, StageJob], case: str) -> None:
    assert losses(alone[case]) == pytest.approx(losses(alone["reference"]), abs=TOLERANCE)


@pytest.mark.timeout(240)
@pytest.mark.parametrize("case", ["zero-0", "zero-2 accumulated", "zero-3"])
def test_two_workers_have_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone["reference"]), abs=TOLERANCE)


@pytest.mark.parametrize("case", ["lora zero-2", "lora zero-3"])
def test_an_adapter_on_two_workers_has_the_losses_of_one(
    alone: dict[str, StageJob], together: dict[str, StageJob], case: str
) -> None:
    assert losses(together[case]) == pytest.approx(losses(alone["lora"]), abs=TOLERANCE)


@pytest.mark.parametrize("case", ["reference", "lora"])
def test_an_interrupted_stage_goes_on_with_the_very_same_losses(alone: dict[str, StageJob], case: str) -> None:
    job = cut_off(alone[case], 4)

    assert losses(job) == losses(alone[case])


@torch.no_grad()
def rewards_of_task(model: Any, job: StageJob) -> torch.Tensor:
    """What the task gives the first answers of the stage's data."""
    task = RewardTask(max_length=64, packing=True, pad_id=job.pad_id)
    return task._rewards(model.eval(), task.collate([TokenSet(*job.tokens[0])[n] for n in range(4)]))


@torch.no_grad()
def rewards_of_plain(model: Any, job: StageJob) -> torch.Tensor:
    """What a plain sequence classifier gives them, right-padded in one batch."""
    parts = [torch.tensor(part) for n in range(4) for part in TokenSet(*job.tokens[0])[n].parts]
    ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True, padding_value=job.pad_id).long()
    return model.eval()(input_ids=ids, attention_mask=(ids != job.pad_id).long()).logits[:, 0]


def test_transformers_scores_the_artifact_as_the_task_does(alone: dict[str, StageJob]) -> None:
    job = alone["reference"]
    artifact = read_artifact(job.artifact, verify=True)
    plain = AutoModelForSequenceClassification.from_pretrained(job.artifact, dtype=torch.float32)

    ours = RewardTask(max_length=64, packing=True, pad_id=job.pad_id).load(job.artifact, torch.float32)
    torch.testing.assert_close(rewards_of_plain(plain, job), rewards_of_task(ours, job))
    assert (artifact.kind, artifact.base, plain.num_labels, plain.config.pad_token_id) == (
        "reward",
        None,
        1,
        job.pad_id,
    )
    assert plain.config.architectures == ["LlamaForSequenceClassification"]


def test_peft_scores_an_adapters_artifact_as_the_task_does(alone: dict[str, StageJob]) -> None:
    job = alone["lora"]
    artifact = read_artifact(job.artifact, verify=True)
    told: dict[str, Any] = {"num_labels": 1, "pad_token_id": job.pad_id, "dtype": torch.float32}
    plain = AutoPeftModelForSequenceClassification.from_pretrained(job.artifact, **told)

    ours = resume(
        RewardTask(max_length=64, packing=True, pad_id=job.pad_id).load(job.base, torch.float32), job.artifact
    )
    torch.testing.assert_close(rewards_of_plain(plain, job), rewards_of_task(ours, job))
    assert (artifact.kind, artifact.base is not None) == ("reward", True)


def after(job: StageJob, earlier: StageJob, *, merge_first: bool) -> StageJob:
    spec = job.spec.model_copy(update={"merge_first": merge_first})
    return dataclasses.replace(job, spec=spec, from_adapter=earlier.artifact)


def test_a_reward_model_goes_on_with_its_head(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    full = train_alone(make_job("more", base=alone["reference"].artifact))
    lora = train_alone(after(make_job("more-lora", adapter=LORA), alone["lora"], merge_first=False))

    before = [read_artifact(job.artifact).metrics["loss"]["heldout_before"] for job in (full, lora)]
    # The full model was written in the base's bfloat16.
    expected = [losses(alone["reference"])[STEPS + 1], losses(alone["lora"])[STEPS + 1]]
    assert before == [pytest.approx(expected[0], abs=0.02), pytest.approx(expected[1], abs=TOLERANCE)]


def test_a_reward_adapter_is_merged_first_with_its_head(alone: dict[str, StageJob], make_job: MakeJob) -> None:
    full = train_alone(after(make_job("merged-full"), alone["lora"], merge_first=True))
    lora = train_alone(after(make_job("merged-lora", adapter=LORA), alone["lora"], merge_first=True))

    expected = losses(alone["lora"])[STEPS + 1]
    before = [read_artifact(job.artifact).metrics["loss"]["heldout_before"] for job in (full, lora)]
    assert before == [pytest.approx(expected, abs=TOLERANCE), pytest.approx(expected, abs=0.02)]
    base = read_artifact(lora.artifact).base
    assert base is not None and read_artifact(base["path"]).kind == "reward"


@pytest.mark.parametrize("case", ["reference", "lora"])
def test_a_reward_model_is_not_served(alone: dict[str, StageJob], case: str) -> None:
    with pytest.raises(UserError, match="a reward model generates no text"):
        resolve(alone[case].artifact)
    with pytest.raises(UserError, match="a reward model generates no text"):
        resolve("tiny", adapters={"taste": alone["lora"].artifact})
