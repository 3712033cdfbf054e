"""What a run's stages took, written down for the next plan: nothing that a run computes depends on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from fettle.needs.batches import arithmetic
from fettle.needs.machines import this_machine
from fettle.needs.rates import Rate, add_rates, device_name
from fettle.needs.shape import shape_of
from fettle.needs.trace import config_text
from fettle.pipeline.planned import Planned, PlannedLearning
from fettle.pipeline.planning import flops_of_step
from fettle.pipeline.report import Report
from fettle.recipe.rl import RlStage

_LEAST_S = 1.0


def write_rates(report: Report, stages: Sequence[Planned], file: Path | None = None) -> None:
    """Of the stages that this run has trained, in `rates_file()`. On a cluster that a run joined nothing is: what its
    machines are is not known here."""
    if os.environ.get("RAY_ADDRESS"):
        return
    found = []
    for row, stage in zip(report.stages, stages, strict=True):
        if isinstance(stage, PlannedLearning) and not row.cached and row.steps and row.seconds >= _LEAST_S:
            found.append(_rate(stage, row.tokens["all"] / row.steps, row.seconds / row.steps))
    if found:
        add_rates(found, file)


def _rate(stage: PlannedLearning, tokens: float, seconds: float) -> Rate:
    from transformers import AutoConfig

    shape = shape_of(config_text(AutoConfig.from_pretrained(stage.origin.root, trust_remote_code=False)))
    cluster, spec = stage.cluster, stage.spec
    told = spec.gradient_checkpointing
    checkpointing = cluster.gpus_per_worker > 0 if told is None else told
    batch = replace(arithmetic(spec, cluster, None, stage.max_length, packing=True), tokens=tokens)
    flops = flops_of_step(spec, shape, stage.adapter, batch, cluster, checkpointing)
    kind, gpu = ("rl" if isinstance(spec, RlStage) else "train"), this_machine().gpu
    device, today = device_name(cluster, gpu), date.today().isoformat()
    return Rate(device, kind, stage.precision, cluster.workers, flops, seconds, today)  # type: ignore[arg-type]
