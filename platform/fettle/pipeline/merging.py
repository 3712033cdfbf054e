"""Adapters that shall become full weights: whether they can, and a stage that does it, as a plan and as a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fettle.artifact import library_versions
from fettle.errors import UserError
from fettle.models.base import digest_of, positions_of
from fettle.models.family import family_of
from fettle.models.interpolate import Search
from fettle.models.mergeable import why_not_made, why_not_merged
from fettle.models.precision import instruction_set, resolve_precision
from fettle.pipeline.origin import Origin
from fettle.pipeline.perplexity import probe
from fettle.pipeline.planned import PlannedMerge, PlannedSource, hash_of
from fettle.recipe import Recipe
from fettle.recipe.evaluate import LossSpec
from fettle.recipe.merge import DEFAULT_DENSITY, MergeStage, Method
from fettle.train.job import MergeJob

Place = Callable[[int], dict[str, Any]]


def plan_merge(
    recipe: Recipe, stage: MergeStage, origins: Sequence[Origin], probed: PlannedSource | None, out: Path
) -> PlannedMerge:
    """The stage with everything resolved. probed: what it interpolates by. Raises UserError with file, line and field
    where it cannot be done."""
    weights = [one.weight for one in stage.adapters or ()] or [1.0]

    def place(number: int) -> dict[str, Any]:
        field = f"stages.{stage.name}." + (f"adapters.{number}.from" if stage.adapters else "from")
        return recipe.where(field)

    if probed is not None and stage.adapters is None and origins[0].adapter is None:
        adapters = _check_tuned(recipe, stage, origins[0])
    else:
        adapters = check_mergeable(origins, place)
    cluster = stage.cluster or recipe.cluster
    fingerprint = fingerprint_of(stage, origins, weights, recipe.seed)
    if probed is not None and stage.interpolate is not None:
        how = stage.interpolate.model_dump(mode="json", exclude={"data"})
        fingerprint = hash_of([fingerprint, how, probed.digest, digest_of(origins[0].root), instruction_set()])
    label = f"{stage.name}-{fingerprint[:12]}"
    return PlannedMerge(
        spec=stage,
        cluster=cluster,
        origin=origins[0],
        precision=resolve_precision(cluster),
        fingerprint=fingerprint,
        folder=out / "stages" / label,
        artifact=out / "artifacts" / label,
        adapters=tuple(zip(adapters, weights[: len(adapters)], strict=True)),
        probe=probed,
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
        search=_search(recipe, stage),
    )


def _check_tuned(recipe: Recipe, stage: MergeStage, origin: Origin) -> list[Path]:
    """No adapters. Raises UserError where what is interpolated is the untuned model itself."""
    if origin.base == origin.root:
        raise UserError(
            "there is nothing between the untuned model and itself",
            **recipe.where(f"stages.{stage.name}.from"),
            expected="a stage that trains, or an adapter's folder",
        )
    return []


def _search(recipe: Recipe, stage: PlannedMerge) -> Search | None:
    """How a worker interpolates. Raises UserError where the probe set gives nothing to measure."""
    spec, where = stage.spec.interpolate, recipe.where(f"stages.{stage.spec.name}.interpolate")
    if spec is None or stage.probe is None:
        return None
    root = stage.origin.root
    if family_of(root) == "masked":
        raise UserError(f"{root.name} predicts hidden tokens, of which no loss is measured", **where)
    asked = LossSpec(kind="loss", data=spec.data, limit=spec.limit, max_length=spec.max_length)
    told = probe(stage.probe.opened, asked, root, stage.origin.chat_template, positions_of(root), **where)
    return Search(root, spec.budget, spec.steps, told.loss)


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
