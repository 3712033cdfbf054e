"""Where an artifact comes from: itself, what it was made from, and so on, from the `artifact.json` files alone."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from fettle.artifact import MANIFEST, Artifact, read_artifact
from fettle.errors import UserError
from fettle.pipeline.recorded import FOLDER, read_record


@dataclass(frozen=True)
class Descent:
    """An artifact with what its run's folder tells of it. parents: name and kind of each that was found, else where it
    is said to lie; with its digest."""

    artifact: Artifact
    parents: tuple[tuple[str, str], ...]
    recipe: str
    stage: dict[str, Any]
    evaluations: tuple[dict[str, Any], ...]


class Artifacts:
    """Every artifact below the folders of runs, by its digest. runs: folders that runs lie in."""

    def __init__(self, runs: Iterable[Path]) -> None:
        self.runs = list(dict.fromkeys(folder.resolve() for folder in runs))

    def descent(self, folder: Path) -> list[Descent]:
        """The artifact in a folder, then what it was made from, and so on, each once. What is a copy, as those in a
        registry are, is told of as its original, where that is here. Raises UserError where there is no artifact."""
        first = read_artifact(folder)
        # Of several that are the same, bit for bit, those of its own run.
        is_of_a_run = first.path.parent.name == "artifacts"
        known = self._by_digest | (_below(first.path.parent) if is_of_a_run else {})
        waiting, found = [first], dict[str, Descent]()
        while waiting:
            artifact = waiting.pop(0)
            if artifact.digest in found:
                continue
            found[artifact.digest] = _descent(artifact, known)
            waiting += [known[digest] for digest in artifact.parents if digest in known]
        return list(found.values())

    def find(self, digest: str) -> Path | None:
        """The folder of the artifact with this digest."""
        found = self._by_digest.get(digest)
        return found.path if found is not None else None

    @cached_property
    def _by_digest(self) -> dict[str, Artifact]:
        """The earliest path of each, so that the answer is the same every time."""
        found: dict[str, Artifact] = {}
        for runs in self.runs:
            for folder in sorted(runs.glob("*/artifacts")):
                for digest, artifact in _below(folder).items():
                    found.setdefault(digest, artifact)
        return found


def _below(folder: Path) -> dict[str, Artifact]:
    """The artifacts that lie in a folder, by digest."""
    found: dict[str, Artifact] = {}
    for file in sorted(folder.glob(f"*/{MANIFEST}")):
        try:
            artifact = read_artifact(file.parent)
        except UserError:  # of another version of fettle, and nothing that was asked for
            continue
        found.setdefault(artifact.digest, artifact)
    return found


def _descent(artifact: Artifact, known: Mapping[str, Artifact]) -> Descent:
    run = known.get(artifact.digest, artifact).path.parent.parent
    recorded, stage = _recorded(run, artifact)
    parents = []
    for digest in artifact.parents:
        if (parent := known.get(digest)) is not None:
            parents.append((f"{parent.name}, {parent.kind}", digest))
        elif artifact.base is not None and digest == artifact.base["digest"]:
            parents.append((f"base {artifact.base['path']}", digest))
        else:
            # Full weights do not say where their base lay; the run's folder does.
            base = stage.get("base") if len(artifact.parents) == 1 else None
            parents.append((f"base {base}" if base else "not here", digest))
    recipe = f"{recorded['recipe']}, {recorded['file']}" if recorded else ""
    return Descent(artifact, tuple(parents), recipe, stage, tuple(_evaluations(run, artifact.digest)))


def descent_of(artifact: Path, runs: Path) -> list[Descent]:
    """As `Artifacts.descent`, among the runs beside the artifact's own, and those in `runs`."""
    return Artifacts([artifact.resolve().parent.parent.parent, runs]).descent(artifact)


def _recorded(run: Path, artifact: Artifact) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the run's folder tells of the recipe and the stage that made an artifact; nothing where it does not."""
    recipe, found = dict[str, Any](), dict[str, Any]()
    if (last := run / "run.json").is_file() and read_record(last)["digest"] == artifact.recipe:
        recipe = read_record(last)  # of a run that was not tracked
    for file in sorted((run / FOLDER).glob("*.json")):
        recorded = read_record(file)
        recipe = recorded if recorded["digest"] == artifact.recipe else recipe
        # A stage outlives changes of the recipe elsewhere; its fingerprint holds all that decides it.
        found = next((one for one in recorded["stages"] if one["fingerprint"] == artifact.fingerprint), found)
    return recipe, found


def _evaluations(run: Path, digest: str) -> Iterator[dict[str, Any]]:
    """The run's evaluations of this artifact, which is its last stage's, before and after."""
    try:
        report: Mapping[str, Any] = json.loads((run / "report.json").read_text(encoding="utf-8"))
        if report["stages"][-1]["artifact"]["digest"] == digest:
            yield from report.get("evaluations", ())
    except (OSError, ValueError, LookupError):
        return


def lines(descent: Descent) -> Iterator[tuple[str, str]]:
    """(what, told) of everything there is to say of an artifact."""
    artifact, metrics = descent.artifact, descent.artifact.metrics
    yield "folder", str(artifact.path)
    yield "digest", artifact.digest
    yield "stage", f"{descent.stage.get('kind', '')} {artifact.fingerprint}".strip()
    if artifact.recipe:
        yield "recipe", f"{descent.recipe or 'its file is not told'} ({artifact.recipe[:12]})"
    for parent, digest in descent.parents:
        yield "made from", f"{parent} ({digest})"
    uses = {one["path"]: one["use"] for one in descent.stage.get("data", ())}
    for path, digest in artifact.data.items():
        yield "data", f"{path} ({uses.get(path, 'training')}, {digest})"
    for path, use in uses.items():
        if path not in artifact.data:
            digest = next(one["digest"] for one in descent.stage["data"] if one["path"] == path)
            yield "data", f"{path} ({use}, {digest})"
    yield "seed", str(artifact.seed)
    if artifact.code:
        yield "code", artifact.code
    if artifact.versions:
        yield "made with", ", ".join(f"{name} {version}" for name, version in artifact.versions.items())
    if artifact.quantized:
        yield "quantised", ", ".join(f"{key} {value}" for key, value in artifact.quantized.items() if value is not None)
    yield from _measured(metrics)
    for one in descent.evaluations:
        for name, score in one["after"]["scores"].items():
            before = one["before"]["scores"].get(name)
            was = f", {before['mean']:.3f} before" if before else ""
            within = f"{score['low']:.3f} to {score['high']:.3f}"
            yield "evaluated", f"{one['after']['data']}: {name} {score['mean']:.3f} ({within}){was}"
    untold = f"none is told of {', '.join(artifact.unlicensed)}" if artifact.unlicensed else ""
    yield "licences", "; ".join(one for one in (", ".join(artifact.licences), untold) if one) or "none is told"


def _measured(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Losses, rewards and other measures, of those there are."""
    unit = f" nats a {metrics.get('unit', 'token')}"
    for name, told in (("loss", unit), ("reward", "")):
        values = metrics.get(name) or {}
        for label, one, other in (("", "first", "last"), (" held out", "heldout_before", "heldout_after")):
            if values.get(one) is not None and values.get(other) is not None:
                yield f"{name}{label}", f"{values[one]:.4g} → {values[other]:.4g}{told}"
    for name, pair in (metrics.get("measures") or {}).items():
        if pair.get("before") is not None and pair.get("after") is not None:
            yield name, f"{pair['before']:.4g} → {pair['after']:.4g}"
    if metrics.get("interpolation"):
        yield "interpolated", in_words(metrics["interpolation"])


def in_words(interpolation: Mapping[str, Any]) -> str:
    """Where a merge's weights came to lie, by the artifact's metrics."""
    alpha, forgotten, budget = (interpolation[key] for key in ("alpha", "forgetting", "budget"))
    return f"{alpha:.3f} of the way from the untuned weights: {forgotten:+.4f} nats forgotten of {budget:g} allowed"
