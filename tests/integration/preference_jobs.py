"""Preference stages of the tiny model, and running them on one worker or two."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fettle.artifact import read_artifact
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import TokenExample, grouped, write_tokens
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import end_ids
from fettle.recipe.adapter import LoraSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.kinds import PreferenceStage
from fettle.recipe.stages import BatchSpec
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember, StageJob
from fettle.train.progress import curve
from fettle.train.stages.preference import preference
from fettle.train.worker import run_member

STEPS = 6
LORA = LoraSpec(kind="lora", r=4, alpha=8)


def make_preference_jobs(root: Path, folder: Path) -> Callable[..., StageJob]:
    """`make(name, loss="dpo", unpaired=False, …)`: stages below `folder` that differ in one thing."""
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    records = list(read_file(root / "recipes" / "northline" / "preferences.jsonl")[1])[:60]
    pairs = list(grouped(encode(records, tokenizer, max_length=96)))
    sets = {"pairs": pairs, "single": [one for pair in pairs for one in _apart(pair)]}
    for name, examples in sets.items():
        write_tokens(folder / name, examples[:-12])
        write_tokens(folder / f"{name}-heldout", examples[-12:])
    (folder / "epoch").write_text("test")

    def make(
        name: str,
        *,
        loss: str = "dpo",
        unpaired: bool = False,
        packing: bool = True,
        accumulate: int = 1,
        adapter: LoraSpec | str = "full",
        **keys: Any,
    ) -> StageJob:
        spec = PreferenceStage(
            name=name,
            kind="preference",
            data="preferences.jsonl",
            loss=loss,
            max_steps=STEPS,
            batch=BatchSpec(sequences=6, accumulate=accumulate),
            packing=packing,
            lr=5e-4,
            checkpoint={"every": 2},
            **keys,
        )
        tokens = folder / ("single" if unpaired else "pairs")
        return StageJob(
            name=name,
            fingerprint=name,
            spec=spec,
            adapter=adapter,
            seed=3,
            base=BUNDLED["tiny"],
            from_adapter=None,
            tokens=((tokens,),),
            streams=(),
            weights=(1.0,),
            heldout=(tokens.with_name(f"{tokens.name}-heldout"),),
            max_length=96,
            precision="fp32",
            folder=folder / name,
            artifact=folder / f"{name}-artifact",
            recipe="",
            data=(),
            end_ids=end_ids(tokenizer),
            pad_id=0,
        )

    return make


def _apart(pair: TokenExample) -> list[TokenExample]:
    """A pair's answers as records of their own, the first one good."""
    return [
        TokenExample(ids, mask, np.array([len(ids)]), np.array([value], np.float32))
        for ids, mask, value in zip(pair.parts, pair.part_masks, (1.0, 0.0), strict=True)
    ]


def train_alone(job: StageJob) -> None:
    """The stage on one worker, in this process."""
    run_member([(job, preference)], GroupMember(0, 1, ClusterSpec(workers=1, zero=0), _fence(job)), None)


def train_together(cases: list[tuple[StageJob, int]]) -> None:
    """Each case's stage on two workers at its ZeRO stage, in one pair of processes."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_worker, args=(port, cases), nprocs=2)


def _worker(rank: int, port: int, cases: list[tuple[StageJob, int]]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "DS_ACCELERATOR": "cpu",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": "1",
    }
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    for job, zero in cases:
        run_member([(job, preference)], GroupMember(rank, 2, ClusterSpec(workers=2, zero=zero), _fence(job)), None)
        torch.distributed.barrier()


def _fence(job: StageJob) -> Fence:
    return Fence(job.folder.parent / "epoch", "test")


def losses(job: StageJob) -> list[float]:
    """The training loss of every step, then what is measured on the held-out records before and after."""
    told = read_artifact(job.artifact).metrics
    pairs = [told["loss"][f"heldout_{when}"] for when in ("before", "after")]
    pairs += [measure[when] for measure in told["measures"].values() for when in ("before", "after")]
    return [*(row.loss for row in curve(job.progress)), *pairs]
