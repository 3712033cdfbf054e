"""Adapters that shall become full weights: whether they can, and a stage that does it, as a plan and as a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fettle.artifact import library_versions
from fettle.errors import UserError
from fettle.models.base import digest_of
from fettle.models.mergeable import why_not_made, why_not_merged
from fettle.models.precision import resolve_precision
from fettle.pipeline.origin import Origin
from fettle.pipeline.planned import PlannedMerge, hash_of
from fettle.recipe import Recipe
from fettle.recipe.merge import DEFAULT_DENSITY, MergeStage, Method
from fettle.train.job import MergeJob

Place = Callable[[int], dict[str, Any]]


def plan_merge(recipe: Recipe, stage: MergeStage, origins: Sequence[Origin], out: Path) -> PlannedMerge:
    """The stage with everything resolved. Raises UserError with file, line and field where it cannot be done."""
    weights = [one.weight for one in stage.adapters or ()] or [1.0]

    def place(number: int) -> dict[str, Any]:
        field = f"stages.{stage.name}." + (f"adapters.{number}.from" if stage.adapters else "from")
        return recipe.where(field)

    adapters = check_mergeable(origins, place)
    cluster = stage.cluster or recipe.cluster
    fingerprint = fingerprint_of(stage, origins, weights, recipe.seed)
    label = f"{stage.name}-{fingerprint[:12]}"
    return PlannedMerge(
        spec=stage,
        cluster=cluster,
        origin=origins[0],
        precision=resolve_precision(cluster),
        fingerprint=fingerprint,
        folder=out / "stages" / label,
        artifact=out / "artifacts" / label,
        adapters=tuple(zip(adapters, weights, strict=True)),
    )


def merge_job(recipe: Recipe, stage: PlannedMerge, end_ids: tuple[int, ...]) -> MergeJob:
    """What a worker is handed of it."""
    method, density, seed = resolved(stage.spec.method, stage.spec.density, recipe.seed)
    return MergeJob(
        name=stage.spec.name,
        fingerprint=stage.fingerprint,
        spec=stage.spec,
        seed=seed,
        base=stage.origin.base,
        folder=stage.folder,
        artifact=stage.artifact,
        recipe=recipe.digest(),
        end_ids=end_ids,
        chat_template=stage.origin.chat_template,
        adapters=stage.adapters,
        method=method,
        density=density,
    )


def fingerprint_of(stage: MergeStage, origins: Sequence[Origin], weights: Sequence[float], seed: int) -> str:
    """Hash of all that decides the merged weights."""
    return hash_of(
        {
            "kind": stage.kind,
            "adapters": [(origin.identity, weight) for origin, weight in zip(origins, weights, strict=True)],
            "how": resolved(stage.method, stage.density, seed) if stage.adapters else None,
            "chat_template": origins[0].chat_template,
            "versions": library_versions(),
        }
    )


def resolved(method: Method | None, density: float | None, seed: int) -> tuple[Method, float, int]:
    """Method, density and seed, those that have no effect at their defaults."""
    method = method or "linear"
    return (
        method,
        DEFAULT_DENSITY if density is None or method == "linear" else density,
        seed if method.startswith("dare") else 0,
    )


def check_mergeable(origins: Sequence[Origin], place: Place) -> list[Path]:
    """The adapters' folders. Raises UserError unless all can be merged, lie over one base and speak one template."""
    first, found = origins[0], []
    for number, origin in enumerate(origins):
        if origin.adapter is None:
            raise UserError(
                "there is nothing to merge: what this begins from is no adapter",
                **place(number),
                expected="an adapter's folder, or a stage that trains an adapter",
            )
        is_made = (origin.adapter / "adapter_config.json").is_file()
        several = len(origins) > 1
        reason = why_not_merged(origin.adapter, several=several) if is_made else None
        if not is_made and origin.adapter_spec is not None:
            reason = why_not_made(origin.adapter_spec, several=several)
        if reason:
            raise UserError(f"this adapter cannot be merged: {reason}", **place(number))
        if not _is_same(first.base, origin.base):
            raise UserError(
                f"adapters of two bases cannot be combined: {first.base} and {origin.base}",
                **place(number),
                expected="adapters of one base",
            )
        if origin.chat_template != first.chat_template:
            raise UserError(
                "adapters of two chat templates cannot be combined: each learned to answer in its own",
                **place(number),
                expected="adapters trained with one chat template",
            )
        found.append(origin.adapter)
    return found


def _is_same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same base; one that is not there yet will be made by a stage."""
    return one == other or (one.is_dir() and other.is_dir() and digest_of(one) == digest_of(other))
