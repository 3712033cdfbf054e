"""What holds a model to its base does: less is forgotten with `kl_to_base`, and a merge stays within its budget.

The tiny model, without Ray, 15 s.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fettle.artifact import read_artifact
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.sources import open_source
from fettle.data.tokens import write_tokens
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.models.generate import load_speaker
from fettle.models.interpolate import Search
from fettle.pipeline.perplexity import Probe, probe
from fettle.recipe import SftStage
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.data import DataSpec
from fettle.recipe.evaluate import LossSpec
from fettle.recipe.merge import MergeStage
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember, MergeJob, StageJob
from fettle.train.stages.merge import merge
from fettle.train.worker import run_member
from gloo import stage_job, train_alone

TINY = BUNDLED["tiny"]
LORA = AdapterSpec(kind="lora", r=8, alpha=16)


@pytest.fixture(scope="module")
def folder(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("near")
    records = list(read_file(root / "recipes" / "northline" / "chat.jsonl")[1])[:160]
    write_tokens(folder / "tokens", encode(records, load_tokenizer(TINY), max_length=128))
    (folder / "epoch").write_text("test")
    return folder


@pytest.fixture(scope="module")
def stories(root: Path) -> Probe:
    """Some of what the tiny model could do already."""
    spec = LossSpec(kind="loss", data=DataSpec(path=str(root / "recipes/northline/general.jsonl")), limit=40)
    return probe(open_source(spec.data, Path, field="data"), spec, TINY, None, 256)


def job_of(folder: Path, name: str, adapter: AdapterSpec, **keys: Any) -> StageJob:
    told = {"name": name, "kind": "sft", "data": "chat.jsonl", "max_steps": 12, "lr": 2e-3, "batch": {"sequences": 16}}
    spec = SftStage.model_validate(told | keys)
    return stage_job(spec, folder, adapter=adapter, near=TINY if spec.kl_to_base is not None else None)


def kl_of(job: StageJob) -> float:
    return float(read_artifact(job.artifact).metrics["measures"]["kl"]["after"])


def speaker(job: StageJob) -> Any:
    """What a stage came to."""
    return load_speaker(*((TINY, job.artifact) if job.adapter.is_beside else (job.artifact, None)))


def test_the_more_it_is_held_to_its_base_the_less_a_model_forgets(folder: Path, stories: Probe) -> None:
    loose, held = (train_alone(job_of(folder, f"near-{coef}", LORA, kl_to_base=coef)) for coef in (1e-6, 2.0))

    lost = [stories.loss(speaker(job)) for job in (loose, held)]
    assert stories.loss(load_speaker(TINY, None)) < lost[1] < lost[0]
    assert kl_of(held) < kl_of(loose)


@pytest.mark.parametrize("adapter", [FULL, LORA], ids=["full", "lora"])
def test_a_merge_goes_as_far_as_its_budget_allows(folder: Path, stories: Probe, adapter: AdapterSpec) -> None:
    tuned = train_alone(job_of(folder, f"tuned-{adapter.kind}", adapter))
    forgets = stories.loss(speaker(tuned)) - stories.loss(load_speaker(TINY, None))
    name = f"between-{adapter.kind}"
    job = MergeJob(
        name=name,
        fingerprint=name,
        spec=MergeStage.model_validate({"name": name, "kind": "merge"}),
        seed=0,
        base=tuned.artifact if adapter is FULL else TINY,
        folder=folder / name,
        artifact=folder / f"{name}-artifact",
        recipe="",
        end_ids=(0,),
        adapters=() if adapter is FULL else ((tuned.artifact, 1.0),),
        method="linear",
        density=0.5,
        search=Search(TINY, forgets / 2, 3, stories.loss),
    )
    run_member([(job, merge)], GroupMember(0, 1, ClusterSpec(workers=1), Fence(folder / "epoch", "test")), None)

    told = read_artifact(job.artifact, verify=True).metrics["interpolation"]
    forgotten = stories.loss(load_speaker(job.artifact, None)) - stories.loss(load_speaker(TINY, None))
    assert 0 < told["alpha"] < 1 and 0 < told["forgetting"] <= forgets / 2
    assert forgotten == pytest.approx(told["forgetting"], abs=1e-6)  # what was measured is what was written
    assert np.all(np.diff([row["alpha"] for row in told["curve"]]) > 0) and len(told["curve"]) == 3 + 5
