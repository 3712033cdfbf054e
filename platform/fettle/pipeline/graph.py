"""Recipe to plan: the stages with everything resolved, each with the fingerprint that says whether it is done."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fettle.artifact import digest_file, is_artifact, library_versions
from fettle.data.files import suffix_of
from fettle.data.sources import OpenSource, open_source
from fettle.errors import UserError
from fettle.models.base import (
    base_and_adapter,
    digest_of,
    positions_of,
    rank_of,
    resolve_base,
    resolve_template,
    template_in,
)
from fettle.models.precision import instruction_set, resolve_precision
from fettle.recipe import Recipe, Stage
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.data import DataSpec

DEFAULT_LENGTH = 2048
# Of a stage's keys those that change nothing in what it computes, or are in its fingerprint in resolved form.
_CHANGES_NOTHING: Any = dict.fromkeys(
    ("name", "checkpoint", "data", "replay", "cluster", "adapter", "from_", "base", "max_length"), True
) | {"heldout": {"data"}}


@dataclass(frozen=True)
class Origin:
    """What a stage begins from: full weights, and an adapter over them where there is one.

    root: the model whose tokenizer and configuration hold for all of it. identity: fingerprint or digest.
    adapter_spec: what the adapter is, where an earlier stage of this recipe made it. chat_template: text of one in
    place of the tokenizer's: the recipe's, or that which the adapter was trained with.
    """

    base: Path
    root: Path
    identity: str
    adapter: Path | None = None
    adapter_spec: AdapterSpec | None = None
    chat_template: str | None = None


@dataclass(frozen=True)
class PlannedSource:
    """One source of a stage's records. contents: of each file, its suffix and the digest of what is in it.

    reading: hash of how the files are read.
    """

    field: str
    opened: OpenSource
    weight: float
    contents: tuple[str, ...]
    reading: str

    @property
    def digest(self) -> str:
        """Of all that decides its records."""
        return _hash([self.contents, self.reading])


@dataclass(frozen=True)
class PlannedStage:
    """A stage ready to run. `is_done` when its artifact is there."""

    spec: Stage
    cluster: ClusterSpec
    adapter: AdapterSpec
    origin: Origin
    sources: tuple[PlannedSource, ...]
    heldout: PlannedSource | None
    max_length: int
    precision: Literal["fp32", "bf16"]
    fingerprint: str
    folder: Path
    artifact: Path

    @property
    def is_done(self) -> bool:
        """Whether its artifact is there already."""
        return is_artifact(self.artifact)

    @property
    def base(self) -> Path:
        """Full weights under the stage's adapter; where the earlier adapter is merged first, the merged ones."""
        merges = self.spec.merge_first and self.origin.adapter is not None
        return self.folder / "merged" if merges and self.adapter != "full" else self.origin.base

    def result(self) -> Origin:
        """What a later stage begins from."""
        if self.adapter == "full":
            return Origin(self.artifact, self.origin.root, self.fingerprint, chat_template=self.origin.chat_template)
        return replace(
            self.origin, base=self.base, identity=self.fingerprint, adapter=self.artifact, adapter_spec=self.adapter
        )


def plan_stages(recipe: Recipe, out: Path, until: str | None = None) -> list[PlannedStage]:
    """The recipe's stages in order, up to and with `until`. Raises UserError with file, line and field."""
    names = [stage.name for stage in recipe.stages]
    if until is not None and until not in names:
        raise UserError(f"--until {until}: no such stage", file=recipe.file, expected=", ".join(names))
    planned: dict[str, PlannedStage] = {}
    for stage in recipe.stages:
        planned[stage.name] = _plan_stage(recipe, stage, planned, out)
        if stage.name == until:
            break
    return list(planned.values())


def _plan_stage(recipe: Recipe, stage: Stage, earlier: dict[str, PlannedStage], out: Path) -> PlannedStage:
    at = f"stages.{stage.name}"
    cluster = stage.cluster or recipe.cluster
    origin = _origin(recipe, stage, earlier)
    if recipe.chat_template is not None:
        where = {"file": recipe.file, **_where(recipe, "chat_template")}
        origin = replace(origin, chat_template=resolve_template(recipe.chat_template, recipe.file.parent, **where))
    adapter = _adapter(recipe, stage, origin)
    max_length = _max_length(recipe, stage, origin.root)
    precision = resolve_precision(cluster)
    sources = [_source(recipe, f"{at}.data", data, data.weight) for data in stage.data]
    if stage.replay is not None:
        sources += _replayed(recipe, stage, sum(source.weight for source in sources))
    heldout = None
    if stage.heldout is not None and stage.heldout.data is not None:
        heldout = _source(recipe, f"{at}.heldout.data", stage.heldout.data, 1.0)
    fingerprint = _hash(
        {
            "stage": stage.model_dump(mode="json", exclude=_CHANGES_NOTHING),
            "sources": [(source.digest, source.weight) for source in sources],
            "heldout": heldout.digest if heldout else None,
            "adapter": adapter if isinstance(adapter, str) else adapter.model_dump(mode="json"),
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


def _origin(recipe: Recipe, stage: Stage, earlier: dict[str, PlannedStage]) -> Origin:
    at = f"stages.{stage.name}"
    if stage.from_ is not None and stage.from_ not in earlier:
        return _folder_origin(recipe.resolve(stage.from_), file=recipe.file, **_where(recipe, f"{at}.from"))
    if stage.base is not None:
        folder = resolve_base(stage.base, recipe.file.parent, file=recipe.file, **_where(recipe, f"{at}.base"))
        return _folder_origin(folder, file=recipe.file, **_where(recipe, f"{at}.base"))
    if earlier:
        return (earlier[stage.from_] if stage.from_ else list(earlier.values())[-1]).result()
    folder = resolve_base(recipe.base, recipe.file.parent, file=recipe.file, **_where(recipe, "base"))
    return _folder_origin(folder, file=recipe.file, **_where(recipe, "base"))


def _folder_origin(folder: Path, **where: Any) -> Origin:
    resolve_base(folder, None, **where)
    base, adapter = base_and_adapter(folder)
    if adapter is None:
        if (folder / "adapter_config.json").is_file():
            raise UserError(
                f"{folder} is an adapter without an artifact.json",
                **where,
                expected="a model, or an adapter that fettle made",
                fix="merge it into its base, and begin from that",
            )
        return Origin(folder, folder, digest_of(folder))
    if not base.is_dir():
        raise UserError(f"the base of this adapter, {base}, is not there", **where)
    assert adapter.base is not None
    if digest_of(base) != adapter.base["digest"]:
        raise UserError(f"its base {base} is not the one it was trained on (the digests differ)", **where)
    return Origin(base, base, adapter.digest, folder, chat_template=template_in(folder))


def _adapter(recipe: Recipe, stage: Stage, origin: Origin) -> AdapterSpec:
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
        differs = adapter != "full" and adapter.r != rank_of(origin.adapter)
    if not stage.merge_first and (adapter == "full" or differs):
        raise UserError(
            "this stage begins from an adapter and asks for another one",
            file=recipe.file,
            **_where(recipe, f"{at}.adapter"),
            expected="the same adapter settings, since the same adapter goes on",
            fix="say merge_first: true to merge the earlier adapter into the weights first",
        )
    return adapter


def _max_length(recipe: Recipe, stage: Stage, root: Path) -> int:
    positions = positions_of(root)
    if stage.max_length is not None and stage.max_length > positions:
        raise UserError(
            f"max_length {stage.max_length} is above the {positions} positions of {root.name}",
            file=recipe.file,
            **_where(recipe, f"stages.{stage.name}.max_length"),
            fix=f"at most max_length: {positions}",
        )
    return stage.max_length or min(positions, DEFAULT_LENGTH)


def _replayed(recipe: Recipe, stage: Stage, others: float) -> list[PlannedSource]:
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
    return PlannedSource(field, opened, weight, tuple(_content(file) for file in opened.files), _hash(reading))


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


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
