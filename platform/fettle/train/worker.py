"""What runs on each Ray Train worker: its group's stages one after the other, skipping those that are done."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from ray import train

from fettle.artifact import code_version, is_artifact
from fettle.output import print_into
from fettle.train.checkpoint import wait_for
from fettle.train.job import GroupMember, Job, LearnJob, StageFunction
from fettle.train.rounds import Paused
from fettle.train.zero import load_deepspeed, needs_engine

_OF_A_GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


def run_stages(config: dict[str, Any]) -> None:
    """The train loop of a worker group: keys stages (jobs with their functions), cluster, fence, logs.

    After a failure Ray Train calls this again from the top: what is finished is skipped, the rest resumes.
    """
    context = train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    cluster = config["cluster"].model_copy(update={"workers": world})  # an elastic group has what there is room for
    member = GroupMember(rank, world, cluster, config["fence"], lambda: train.get_preemption_info() is not None)
    try:
        run_member(config["stages"], member, config["logs"])
    except Paused:  # as it was told to: no failure, after which Ray Train would begin again
        print("== paused", flush=True)


def run_member(stages: Sequence[tuple[Job, StageFunction]], member: GroupMember, logs: Path | None) -> None:
    """The stages on one worker, whose process group (if there are several workers) is already there."""
    if logs is not None:
        print_into(logs / f"worker-{member.rank}.log")
    code_version()  # now, while it is what was imported: a run may last for days
    torch.set_num_threads(member.cluster.cpus_per_worker)
    if not needs_engine(member.cluster):
        # One worker alone is told of a group of one, and accelerate would wrap its model for that: gradient buckets for
        # nobody, and a critic, which learns outside the model's forward, fails ("marked as ready twice").
        for name in _OF_A_GROUP:
            os.environ.pop(name, None)
    if any(isinstance(job, LearnJob) for job, _ in stages):
        load_deepspeed()  # accelerate imports it sooner or later, engine or not, and would get MLflow with it
    for job, function in stages:
        if not is_artifact(job.artifact):
            print(f"== stage {job.name} ({job.fingerprint})", flush=True)
            function(job, member)
        wait_for(job.artifact, member.fence)
