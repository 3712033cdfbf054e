"""Recipe to plan: the stages with everything resolved, each with the fingerprint that says whether it is done."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from fettle.artifact import digest_file, library_versions
from fettle.data.files import suffix_of
from fettle.data.sources import open_source
from fettle.errors import UserError
from fettle.models.base import positions_of, rank_of, resolve_base, resolve_template
from fettle.models.precision import instruction_set, resolve_precision
from fettle.pipeline.merging import plan_merge
from fettle.pipeline.origin import Origin, folder_origin
from fettle.pipeline.planned import Planned, PlannedSource, PlannedStage, hash_of
from fettle.recipe import Recipe
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.data import DataSpec
from fettle.recipe.kinds import YIELDS_MODEL
from fettle.recipe.merge import MergeStage
from fettle.recipe.stages import StageBase, TrainingStage

DEFAULT_LENGTH = 2048
# Of a stage's keys those that change nothing in what it computes, or are in its fingerprint in resolved form.
_CHANGES_NOTHING: Any = dict.fromkeys(
    ("name", "checkpoint", "data", "replay", "cluster", "adapter", "from_", "base", "max_length"), True
) | {"heldout": {"data"}}


def plan_stages(recipe: Recipe, out: Path, until: str | None = None) -> list[Planned]:
    """The recipe's stages in order, up to and with `until`. Raises UserError with file, line and field."""
    names = [stage.name for stage in recipe.stages]
    if until is not None and until not in names:
        raise UserError(f"--until {until}: no such stage", file=recipe.file, expected=", ".join(names))
    planned: dict[str, Planned] = {}
    for stage in recipe.stages:
        if isinstance(stage, MergeStage):
            planned[stage.name] = plan_merge(recipe, stage, _origins(recipe, stage, planned), out)
        else:
            planned[stage.name] = _plan_stage(recipe, stage, planned, out)
        if stage.name == until:
            break
    return list(planned.values())


def _plan_stage(recipe: Recipe, stage: TrainingStage, earlier: dict[str, Planned], out: Path) -> PlannedStage:
    at = f"stages.{stage.name}"
    cluster = stage.cluster or recipe.cluster
    (origin,) = _origins(recipe, stage, earlier)
    adapter = _adapter(recipe, stage, origin)
    max_length = _max_length(recipe, stage, origin.root)
    precision = resolve_precision(cluster)
    sources = [_source(recipe, f"{at}.data", data, data.weight) for data in stage.data]
    if stage.replay is not None:
        sources += _replayed(recipe, stage, sum(source.weight for source in sources))
    heldout = None
    if stage.heldout is not None and stage.heldout.data is not None:
        heldout = _source(recipe, f"{at}.heldout.data", stage.heldout.data, 1.0)
    fingerprint = hash_of(
        {
            "stage": stage.model_dump(mode="json", exclude=_CHANGES_NOTHING),
            "sources": [(source.digest, source.weight) for source in sources],
            "heldout": heldout.digest if heldout else None,
            "adapter": adapter.model_dump(mode="json"),
            "cluster": cluster.model_dump(mode="json", exclude={"precision"}),
            "precision": precision,
            "instructions": instruction_set(),
            "origin": origin.identity,
            "chat_template": origin.chat_template,
            "max_length": max_length,
            "seed": recipe.seed,
            "versions": library_versions(),
        }
    )
    label = f"{stage.name}-{fingerprint[:12]}"
    return PlannedStage(
        spec=stage,
        cluster=cluster,
        adapter=adapter,
        origin=origin,
        sources=tuple(sources),
        heldout=heldout,
        max_length=max_length,
        precision=precision,
        fingerprint=fingerprint,
        folder=out / "stages" / label,
        artifact=out / "artifacts" / label,
    )


def _origins(recipe: Recipe, stage: TrainingStage | MergeStage, earlier: dict[str, Planned]) -> list[Origin]:
    """What the stage begins from, under the recipe's chat template; a merge may begin from several adapters."""
    at = f"stages.{stage.name}"
    if isinstance(stage, MergeStage) and stage.adapters is not None:
        names = [one.from_ for one in stage.adapters]
        origins = [_origin(recipe, stage, name, f"{at}.adapters.{n}.from", earlier) for n, name in enumerate(names)]
    elif isinstance(stage, TrainingStage) and stage.base is not None:
        where: dict[str, Any] = {"file": recipe.file, **_where(recipe, f"{at}.base")}
        origins = [folder_origin(resolve_base(stage.base, recipe.file.parent, **where), **where)]
    else:
        origins = [_origin(recipe, stage, stage.from_, f"{at}.from", earlier)]
    if recipe.chat_template is None:
        return origins
    where = {"file": recipe.file, **_where(recipe, "chat_template")}
    template = resolve_template(recipe.chat_template, recipe.file.parent, **where)
    return [replace(origin, chat_template=template) for origin in origins]


def _origin(recipe: Recipe, stage: StageBase, name: str | None, field: str, earlier: dict[str, Planned]) -> Origin:
    """What a stage's `from` names: an earlier stage's result, a folder's content; by default the last model's."""
    where: dict[str, Any] = {"file": recipe.file, **_where(recipe, field)}
    if name is not None and name not in earlier:
        return folder_origin(recipe.resolve(name), takes_foreign=isinstance(stage, MergeStage), **where)
    if name is not None:
        named = earlier[name]
        if named.spec.kind not in (*YIELDS_MODEL, stage.kind):
            raise UserError(
                f"'{name}' yields no language model: it is of kind {named.spec.kind}",
                **where,
                expected=f"a stage of kind {', '.join(dict.fromkeys((*YIELDS_MODEL, stage.kind)))}",
            )
        return named.result()
    if models := [one for one in earlier.values() if one.spec.kind in YIELDS_MODEL]:
        return models[-1].result()
    where = {"file": recipe.file, **_where(recipe, "base")}
    return folder_origin(resolve_base(recipe.base, recipe.file.parent, **where), **where)


def _adapter(recipe: Recipe, stage: TrainingStage, origin: Origin) -> AdapterSpec:
    at = f"stages.{stage.name}"
    adapter = stage.adapter or recipe.adapter
    if origin.adapter is None:
        if stage.merge_first:
            raise UserError(
                "merge_first has no effect: what this stage begins from is no adapter",
                file=recipe.file,
                **_where(recipe, f"{at}.merge_first"),
                fix="remove it",
            )
        return adapter
    if origin.adapter_spec is not None:
        differs = adapter != origin.adapter_spec
    else:  # an adapter's folder: PEFT's configuration tells its rank
        differs = adapter.r != rank_of(origin.adapter)
    if not stage.merge_first and (not adapter.is_beside or differs):
        raise UserError(
            "this stage begins from an adapter and asks for another one",
            file=recipe.file,
            **_where(recipe, f"{at}.adapter"),
            expected="the same adapter settings, since the same adapter goes on",
            fix="say merge_first: true to merge the earlier adapter into the weights first",
        )
    return adapter


def _max_length(recipe: Recipe, stage: TrainingStage, root: Path) -> int:
    positions = positions_of(root)
    if stage.max_length is not None and stage.max_length > positions:
        raise UserError(
            f"max_length {stage.max_length} is above the {positions} positions of {root.name}",
            file=recipe.file,
            **_where(recipe, f"stages.{stage.name}.max_length"),
            fix=f"at most max_length: {positions}",
        )
    return stage.max_length or min(positions, DEFAULT_LENGTH)


def _replayed(recipe: Recipe, stage: TrainingStage, others: float) -> list[PlannedSource]:
    """What the stage replays. others: the weight of all that it does not."""
    assert stage.replay is not None
    specs = recipe.replayed(stage)
    share = stage.replay.fraction / (1 - stage.replay.fraction) * others / sum(spec.weight for spec in specs)
    try:
        return [_source(recipe, f"stages.{stage.name}.replay.data", spec, share * spec.weight) for spec in specs]
    except UserError as error:
        earlier = ", ".join(other.name for other in recipe.stages[: recipe.stages.index(stage)])
        if not earlier or error.expected is not None:
            raise
        where: dict[str, Any] = {"file": error.file, "line": error.line, "field": error.field, "fix": error.fix}
        raise UserError(error.got, **where, expected=f"a source of records, or an earlier stage ({earlier})") from None


def _source(recipe: Recipe, field: str, spec: DataSpec, weight: float) -> PlannedSource:
    opened = open_source(spec, recipe.resolve, file=recipe.file, **_where(recipe, field))
    reading = opened.spec.model_dump(mode="json", exclude={"path", "weight", "hub"})
    return PlannedSource(field, opened, weight, tuple(_content(file) for file in opened.files), hash_of(reading))


def _content(file: Path) -> str:
    is_gzip = file.suffix.lower() == ".gz"
    state = file.stat()
    return f"{suffix_of(file)}{' gzip' if is_gzip else ''} {_digest(file, state.st_size, state.st_mtime_ns)}"


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    """The file's digest, once for all the stages that read it."""
    return digest_file(file)


def _where(recipe: Recipe, field: str) -> dict[str, Any]:
    return {"line": recipe.line(field), "field": field}
