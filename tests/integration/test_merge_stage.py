"""Adapters trained, merged by a worker group, and gone on from. Two-process gloo: Ray takes half a minute to start."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from fettle.artifact import read_artifact
from fettle.cli.main import app
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import write_tokens
from fettle.models.base import BUNDLED, digest_of, load_tokenizer, load_weights
from fettle.pipeline.prepare import end_ids
from fettle.recipe import SftStage
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.merge import MergeStage
from fettle.recipe.stages import BatchSpec
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember, MergeJob, StageJob
from fettle.train.stages.merge import merge
from fettle.train.stages.sft import sft
from fettle.train.worker import run_member
from gloo import join, spawn, stage_job

Stages = list[tuple[StageJob | MergeJob, object]]


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Encoded conversations, and two adapters that learned from them for a few steps: one-artifact, two-artifact."""
    folder = tmp_path_factory.mktemp("merging")
    records = list(read_file(root / "recipes" / "northline" / "chat.jsonl")[1])[:80]
    write_tokens(folder / "tokens", encode(records, load_tokenizer(BUNDLED["tiny"]), max_length=128))
    (folder / "epoch").write_text("test")
    adapters = [
        training(folder, "one", adapter=AdapterSpec(kind="lora", r=4, alpha=8)),
        training(folder, "two", adapter=AdapterSpec(kind="lora", r=8, alpha=8)),
    ]
    run_member([(job, sft) for job in adapters], member(folder), None)
    return folder


def member(folder: Path, rank: int = 0, cluster: ClusterSpec | None = None) -> GroupMember:
    cluster = cluster or ClusterSpec(workers=1, zero=0)
    return GroupMember(rank, cluster.workers, cluster, Fence(folder / "epoch", "test"))


def training(folder: Path, name: str, *, base: Path = BUNDLED["tiny"], adapter: AdapterSpec = FULL) -> StageJob:
    batch = BatchSpec(sequences=8)
    spec = SftStage(name=name, kind="sft", data="chat.jsonl", max_steps=3, batch=batch, lr=2e-3)
    told = {"seed": len(name) + ord(name[0]), "end_ids": end_ids(load_tokenizer(BUNDLED["tiny"]))}
    return stage_job(spec, folder, base=base, adapter=adapter, **told)


def merging(folder: Path, name: str, *adapters: str, method: str = "linear") -> MergeJob:
    return MergeJob(
        name=name,
        fingerprint=name,
        spec=MergeStage.model_validate({"name": name, "kind": "merge"}),
        seed=0,
        base=BUNDLED["tiny"],
        folder=folder / name,
        artifact=folder / f"{name}-artifact",
        recipe="",
        end_ids=(7,),
        adapters=tuple((folder / f"{adapter}-artifact", 1.0) for adapter in adapters),
        method=method,
        density=0.5,
    )


def in_two_processes(folder: Path, stages: Stages) -> None:
    spawn(_worker, folder, stages)


def _worker(rank: int, meeting: str, folder: Path, stages: Stages) -> None:
    join(rank, meeting)
    run_member(stages, member(folder, rank, ClusterSpec(workers=2, zero=2)), None)
    torch.distributed.barrier()


def test_a_trained_adapter_merged_answers_as_it_does_over_its_base(folder: Path) -> None:
    run_member([(merging(folder, "alone", "one"), merge)], member(folder), None)

    whole = AutoModelForCausalLM.from_pretrained(folder / "alone-artifact", dtype="auto")
    over = PeftModel.from_pretrained(load_weights(BUNDLED["tiny"], torch.float32), folder / "one-artifact")
    exact = over.merge_and_unload().state_dict()
    # The base lies in bfloat16, and so does what is merged into it.
    assert all(torch.equal(weight, exact[name].to(torch.bfloat16)) for name, weight in whole.state_dict().items())
    assert whole.generation_config.eos_token_id == [7]
    artifact = read_artifact(folder / "alone-artifact", verify=True)
    assert artifact.parents == (digest_of(BUNDLED["tiny"]), digest_of(folder / "one-artifact"))


@pytest.mark.timeout(180)
def test_two_workers_merge_and_train_on_from_the_result(folder: Path) -> None:
    both = merging(folder, "both", "one", "two", method="ties")
    last = training(folder, "last", base=both.artifact)
    in_two_processes(folder, [(both, merge), (last, sft)])

    alone = merging(folder, "both-alone", "one", "two", method="ties")
    run_member([(alone, merge)], member(folder), None)
    assert digest_of(alone.artifact) == digest_of(both.artifact)
    told = read_artifact(last.artifact).metrics["loss"]
    assert told["heldout_after"] < told["heldout_before"]


def test_the_command_makes_what_the_stage_makes(folder: Path, tmp_path: Path) -> None:
    job = merging(folder, "dared", "one", "two", method="dare_ties")
    job = dataclasses.replace(job, end_ids=end_ids(load_tokenizer(BUNDLED["tiny"])))
    run_member([(job, merge)], member(folder), None)

    names = [str(folder / f"{name}-artifact") for name in ("one", "two")]
    told = CliRunner().invoke(app, ["merge", *names, "--method", "dare_ties", "--out", str(tmp_path / "merged")])

    assert told.exit_code == 0
    assert "1 x one-artifact + 1 x two-artifact, dare_ties, density 0.5, seed 0" in told.output
    assert f"fettle serve {tmp_path / 'merged'}" in told.output
    assert digest_of(tmp_path / "merged") == digest_of(job.artifact)
