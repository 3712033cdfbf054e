"""Recipe to plan: the stages with everything resolved, each with the fingerprint that says whether it is done."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from fettle.artifact import digest_file
from fettle.data.files import suffix_of
from fettle.data.sources import open_source
from fettle.errors import UserError
from fettle.models.base import digest_of, resolve_base, resolve_template
from fettle.models.precision import resolve_precision
from fettle.pipeline.adapters import adapter_of, room_for
from fettle.pipeline.distilling import folder_teacher
from fettle.pipeline.from_nothing import fresh_origin
from fettle.pipeline.merging import plan_merge
from fettle.pipeline.origin import Origin, folder_origin
from fettle.pipeline.planned import Planned, PlannedRl, PlannedSource, PlannedStage, hash_of, what_decides
from fettle.pipeline.quantizing import plan_quantize
from fettle.pipeline.reinforcing import plan_rl
from fettle.recipe import Recipe
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.data import FRACTIONS, DataSpec
from fettle.recipe.distill import DistillStage
from fettle.recipe.from_nothing import FromNothing
from fettle.recipe.kinds import YIELDS_MODEL
from fettle.recipe.merge import MergeStage
from fettle.recipe.quantize import QuantizeStage
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import LearningStage, StageBase, TrainingStage
from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import parsed

DEFAULT_LENGTH = 2048
# Of a stage's keys those that change nothing in what it computes, or are in its fingerprint in resolved form.
_RESOLVED = ("data", "replay", "cluster", "adapter", "from_", "base", "max_length", "teacher", "kl_to_base")
_CHANGES_NOTHING: Any = dict.fromkeys(("name", "checkpoint", *_RESOLVED), True) | {"heldout": {"data"}}


def plan_stages(recipe: Recipe, out: Path, until: str | None = None) -> list[Planned]:
    """The recipe's stages in order, up to and with `until`. Raises UserError with file, line and field."""
    names = [stage.name for stage in recipe.stages]
    if until is not None and until not in names:
        raise UserError(f"--until {until}: no such stage", file=recipe.file, expected=", ".join(names))
    planned: dict[str, Planned] = {}
    for stage in recipe.stages:
        if isinstance(stage, MergeStage):
            at = f"stages.{stage.name}.interpolate.data"
            probed = _source(recipe, at, stage.interpolate.data, 1.0) if stage.interpolate is not None else None
            planned[stage.name] = plan_merge(recipe, stage, _origins(recipe, stage, planned, out), probed, out)
        elif isinstance(stage, QuantizeStage):
            planned[stage.name] = plan_quantize(recipe, stage, _origins(recipe, stage, planned, out)[0], out)
        elif isinstance(stage, RlStage):
            planned[stage.name] = _plan_rl(recipe, stage, planned, out)
        else:
            planned[stage.name] = _plan_stage(recipe, stage, planned, out)
        if stage.name == until:
            break
    return list(planned.values())


def _plan_stage(recipe: Recipe, stage: TrainingStage, earlier: dict[str, Planned], out: Path) -> PlannedStage:
    at = f"stages.{stage.name}"
    cluster = stage.cluster or recipe.cluster
    (origin,) = _origins(recipe, stage, earlier, out)
    adapter = adapter_of(recipe, stage, origin)
    max_length = _max_length(recipe, stage, origin.root, adapter)
    precision = resolve_precision(cluster)
    sources = [_source(recipe, f"{at}.data", data, data.weight) for data in stage.data]
    if stage.replay is not None:
        sources += _replayed(recipe, stage, sum(source.weight for source in sources))
    heldout = None
    if stage.heldout is not None and stage.heldout.data is not None:
        heldout = _source(recipe, f"{at}.heldout.data", stage.heldout.data, 1.0)
    teacher = None
    if isinstance(stage, DistillStage):
        named = stage.teacher if stage.teacher in earlier else None
        field = f"{at}.teacher"
        teacher = _origin(recipe, stage, named, field, earlier, out) if named else folder_teacher(recipe, stage)
    near = getattr(stage, "kl_to_base", None)
    fingerprint = hash_of(
        {
            "stage": stage.model_dump(mode="json", exclude=_CHANGES_NOTHING),
            **({"near": [near, digest_of(origin.root)]} if near is not None else {}),
            "sources": [(source.digest, source.weight) for source in sources],
            "heldout": heldout.digest if heldout else None,
            **({"teacher": [teacher.identity, teacher.chat_template]} if teacher is not None else {}),
            **what_decides(recipe.seed, origin, adapter, cluster, precision, max_length),
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
        teacher=teacher,
        precision=precision,
        fingerprint=fingerprint,
        folder=out / "stages" / label,
        artifact=out / "artifacts" / label,
    )


def _plan_rl(recipe: Recipe, stage: RlStage, earlier: dict[str, Planned], out: Path) -> PlannedRl:
    at = f"stages.{stage.name}"
    (origin,) = _origins(recipe, stage, earlier, out)
    adapter = adapter_of(recipe, stage, origin)
    heldout = None
    if stage.heldout is not None and stage.heldout.data is not None:
        heldout = _source(recipe, f"{at}.heldout.data", stage.heldout.data, 1.0)
    return plan_rl(
        recipe,
        stage,
        origin,
        adapter,
        _max_length(recipe, stage, origin.root, adapter),
        tuple(_source(recipe, f"{at}.prompts", spec, 1.0) for spec in stage.prompts),
        heldout,
        earlier,
        out,
    )


def _origins(recipe: Recipe, stage: StageBase, earlier: dict[str, Planned], out: Path) -> list[Origin]:
    """What the stage begins from, under the recipe's chat template; a merge may begin from several adapters."""
    at = f"stages.{stage.name}"
    if isinstance(stage, MergeStage) and stage.adapters is not None:
        named = [(one.from_, f"{at}.adapters.{number}.from") for number, one in enumerate(stage.adapters)]
        origins = [_origin(recipe, stage, name, field, earlier, out) for name, field in named]
    elif isinstance(stage, LearningStage) and stage.base is not None:
        where: dict[str, Any] = recipe.where(f"{at}.base")
        first = stage if isinstance(stage, TrainingStage) else None
        origins = [_base(recipe, stage.base, first, out, **where)]
    else:
        origins = [_origin(recipe, stage, stage.from_, f"{at}.from", earlier, out)]
    template = _template(recipe)
    return [replace(origin, chat_template=template) for origin in origins] if template is not None else origins


def _template(recipe: Recipe) -> str | None:
    if recipe.chat_template is None:
        return None
    where: dict[str, Any] = recipe.where("chat_template")
    return resolve_template(recipe.chat_template, recipe.file.parent, **where)


def _origin(
    recipe: Recipe, stage: StageBase, name: str | None, field: str, earlier: dict[str, Planned], out: Path
) -> Origin:
    """What a stage's `from` names: an earlier stage's result, a folder's content; by default the last model's."""
    where: dict[str, Any] = recipe.where(field)
    if name is not None and name not in earlier:
        takes_foreign = isinstance(stage, (MergeStage, QuantizeStage))
        return folder_origin(named_folder(recipe, name, **where), takes_foreign=takes_foreign, **where)
    if name is not None:
        named = earlier[name]
        if isinstance(named.spec, QuantizeStage):
            raise UserError(
                f"'{name}' is quantised, for serving: no stage begins from weights that were rounded",
                **where,
                fix="begin from the stage it was made from",
            )
        if named.spec.kind not in (*YIELDS_MODEL, stage.kind):
            raise UserError(
                f"'{name}' yields no language model: it is of kind {named.spec.kind}",
                **where,
                expected=f"a stage of kind {', '.join(dict.fromkeys((*YIELDS_MODEL, stage.kind)))}",
            )
        return named.result()
    if models := [one for one in earlier.values() if one.spec.kind in YIELDS_MODEL]:
        return models[-1].result()
    where = recipe.where("base")
    first = next((one for one in recipe.stages if isinstance(one, TrainingStage)), None)
    return _base(recipe, recipe.base, first, out, **where)


def named_folder(recipe: Recipe, name: str, **where: Any) -> Path:
    """The folder of that name, or of what the recipe's registry has under it now. where: file, line, field of the
    UserError raised where the registry has none."""
    folder, version = recipe.resolve(name), parsed(name)
    if folder.is_dir() or version is None or recipe.publish is None:
        return folder
    try:
        return FolderRegistry(recipe.resolve(recipe.publish.registry)).find(version).folder
    except UserError as error:
        raise UserError(error.got, **where, expected=error.expected, fix=error.fix) from None


def _base(recipe: Recipe, base: str | FromNothing, first: TrainingStage | None, out: Path, **where: Any) -> Origin:
    """A base by name, or made from nothing. first: the stage whose data its tokenizer learns from."""
    if isinstance(base, str):
        return folder_origin(resolve_base(base, recipe.file.parent, **where), **where)
    if first is None:
        raise UserError("there is nothing to learn from: no stage trains", **where, fix="name a base that has learned")
    sources = [_source(recipe, f"stages.{first.name}.data", data, data.weight) for data in first.data]
    return fresh_origin(recipe, base, sources, out, _template(recipe), **where)


def _max_length(recipe: Recipe, stage: LearningStage, root: Path, adapter: AdapterSpec) -> int:
    positions = room_for(adapter, root)
    beside = f" beside the adapter's {adapter.tokens}" if adapter.tokens else ""
    if stage.max_length is not None and stage.max_length > positions:
        raise UserError(
            f"max_length {stage.max_length} is above the {positions} positions of {root.name}{beside}",
            **recipe.where(f"stages.{stage.name}.max_length"),
            fix=f"at most max_length: {positions}",
        )
    return stage.max_length or min(positions, DEFAULT_LENGTH)


def _replayed(recipe: Recipe, stage: TrainingStage, others: float) -> list[PlannedSource]:
    """What the stage replays. others: the weight of all that it does not."""
    assert stage.replay is not None
    specs = recipe.replayed(stage)
    fraction = FRACTIONS[0] if stage.replay.fraction == "auto" else stage.replay.fraction
    share = fraction / (1 - fraction) * others / sum(spec.weight for spec in specs)
    try:
        return [_source(recipe, f"stages.{stage.name}.replay.data", spec, share * spec.weight) for spec in specs]
    except UserError as error:
        earlier = ", ".join(other.name for other in recipe.stages[: recipe.stages.index(stage)])
        if not earlier or error.expected is not None:
            raise
        where: dict[str, Any] = {"file": error.file, "line": error.line, "field": error.field, "fix": error.fix}
        raise UserError(error.got, **where, expected=f"a source of records, or an earlier stage ({earlier})") from None


def _source(recipe: Recipe, field: str, spec: DataSpec, weight: float) -> PlannedSource:
    opened = open_source(spec, recipe.resolve, **recipe.where(field))
    reading = opened.spec.model_dump(mode="json", exclude={"path", "weight", "licence", "hub"})
    return PlannedSource(field, opened, weight, tuple(_content(file) for file in opened.files), hash_of(reading))


def _content(file: Path) -> str:
    is_gzip = file.suffix.lower() == ".gz"
    state = file.stat()
    return f"{suffix_of(file)}{' gzip' if is_gzip else ''} {_digest(file, state.st_size, state.st_mtime_ns)}"


@cache
def _digest(file: Path, size: int, changed: int) -> str:
    """The file's digest, once for all the stages that read it."""
    return digest_file(file)
