"""Weights that shall be rounded for serving: whether they can, and a stage that does it, as a plan and as a job."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

from fettle.artifact import library_versions
from fettle.models.precision import resolve_precision
from fettle.models.quantizable import check_quantizable
from fettle.pipeline.merging import check_mergeable
from fettle.pipeline.origin import Origin
from fettle.pipeline.planned import PlannedQuantize, hash_of
from fettle.recipe import Recipe
from fettle.recipe.quantize import QuantizeStage
from fettle.train.job import QuantizeJob


def plan_quantize(recipe: Recipe, stage: QuantizeStage, origin: Origin, out: Path) -> PlannedQuantize:
    """The stage with everything resolved. Raises UserError with file, line and field where it cannot be done."""
    field = f"stages.{stage.name}." + ("from" if stage.from_ is not None else "group" if stage.group else "kind")
    check_can_quantize(stage, origin, **recipe.where(field))
    cluster = stage.cluster or recipe.cluster
    fingerprint = quantized_fingerprint(stage, origin)
    label = f"{stage.name}-{fingerprint[:12]}"
    return PlannedQuantize(
        spec=stage,
        cluster=cluster,
        origin=origin,
        precision=resolve_precision(cluster),
        fingerprint=fingerprint,
        folder=out / "stages" / label,
        artifact=out / "artifacts" / label,
    )


def quantize_job(recipe: Recipe, stage: PlannedQuantize, end_ids: tuple[int, ...]) -> QuantizeJob:
    """What a worker is handed of it."""
    return QuantizeJob(
        name=stage.spec.name,
        fingerprint=stage.fingerprint,
        spec=stage.spec,
        seed=0,
        base=stage.origin.base,
        folder=stage.folder,
        artifact=stage.artifact,
        recipe=recipe.digest(),
        end_ids=end_ids,
        chat_template=stage.origin.chat_template,
        adapter=stage.origin.adapter,
    )


def check_can_quantize(stage: QuantizeStage, origin: Origin, **where: Any) -> None:
    """Raises UserError for an adapter that cannot be merged, and for a model whose layers cannot be quantised so."""
    if origin.adapter is not None:
        check_mergeable([origin], lambda _: where)
    check_quantizable(origin.root, stage.group_size, **where)


def quantized_fingerprint(stage: QuantizeStage, origin: Origin) -> str:
    """Hash of all that decides the quantised weights."""
    return hash_of(
        {
            "kind": stage.kind,
            "origin": origin.identity,
            "bits": stage.bits,
            "group": stage.group_size,
            "chat_template": origin.chat_template,
            "versions": library_versions() | {"compressed-tensors": metadata.version("compressed-tensors")},
        }
    )
