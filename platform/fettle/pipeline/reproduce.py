"""A run once more, from what it wrote down: the same recipe, seed and settings, in another folder, and compared."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.artifact import is_artifact, read_artifact
from fettle.errors import GateFailed, UserError
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.lineage import Artifacts
from fettle.pipeline.recorded import FOLDER, default_tracker, read_record
from fettle.pipeline.reproduced import StageCompared, compared, differences, finished
from fettle.pipeline.runner import run_loaded
from fettle.pipeline.tracked_runs import find_run, read_runs
from fettle.pipeline.tracking import told_of
from fettle.recipe import Recipe
from fettle.recipe.load import recipe_as_run
from fettle.recipe.tracking import TrackingSpec
from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import reference


@dataclass(frozen=True)
class Reproduced:
    """stages: of those that the first run finished. within: nats a token that losses may differ by;
    None where weights may not."""

    out: Path
    stages: tuple[StageCompared, ...]
    within: float | None

    @property
    def is_met(self) -> bool:
        """Whether the second run came to the same as the first."""
        return all(one.is_within(self.within) for one in self.stages)

    @property
    def verdict(self) -> str:
        """In a line."""
        if all(one.is_same for one in self.stages):
            return "the very same: all weights, bit for bit"
        others = [one for one in self.stages if not one.is_same]
        if any(one.largest is None for one in others):
            return f"differs: {', '.join(one.name for one in others)}"
        largest = max(one.largest or 0.0 for one in others)
        told = f"within {largest:.2g} nats a token at every step, and not bit for bit"
        return f"the same {told}" if self.is_met else f"differs: {told}"


def reproduce(
    what: str,
    *,
    out: Path | None = None,
    runs: Path = Path("runs"),
    registry: Path | None = None,
    tracker: str | None = None,
    is_changed_taken: bool = False,
    within: float | None = None,
    say: Callable[[str], None] = print,
) -> Reproduced:
    """Runs a run again, in a new folder, and compares what came of it.

    what: the run (name, folder or id), an artifact's folder (then up to its stage), NAME@ALIAS or NAME:N of `registry`.
    out: by default NAME-reproduced beside the run's folder. is_changed_taken: goes on where data, code or a base have
    changed since. within: nats a token that losses may differ by; None where weights may not differ at all.

    Nothing is published; a gate that is shut ends nothing. Raises UserError where the run's folder is not here or what
    it was given has changed, and what `run` raises.
    """
    run, record, until = _found(what, runs, registry, tracker)
    folder = (out or run.with_name(f"{run.name}-reproduced")).expanduser().resolve()
    if folder == run.resolve():
        raise UserError(f"{folder} is what shall be reproduced", field="--out", fix="name another folder")
    then = _up_to(record["stages"], until)
    if not any(finished(stage) for stage in then):
        raise UserError(f"{run} has finished no stage: there is nothing to compare with")
    recipe = _recipe(record)
    until = then[-1]["name"] if then[-1]["name"] != recipe.stages[-1].name else None
    now = [told_of(stage) for stage in plan_stages(recipe, folder, until)]
    say(f"reproduces {run.name}: {', '.join(stage['name'] for stage in then)}; into {folder}")
    _tell_differences(then, now, is_changed_taken, say)
    command = shlex.join(["fettle", "reproduce", what, "--out", str(folder)])
    try:
        run_loaded(recipe, folder, until, command, is_published=False)
    except GateFailed as shut:
        say(str(shut))
    made = zip(then, now, strict=True)
    stages = tuple(compared(one["name"], one, other) for one, other in made if finished(one))
    for stage in stages:
        say(f"{stage.name}: {stage}")
    return Reproduced(folder, stages, within)


def _found(
    what: str, runs: Path, registry: Path | None, tracker: str | None
) -> tuple[Path, dict[str, Any], str | None]:
    """(folder of the run, what it wrote down, the last stage that is meant)."""
    if is_artifact(what):
        return _of_artifact(Path(what).resolve())
    if "@" in what or ":" in what:
        if registry is None:
            raise UserError(f"{what} is of a registry", fix="name its folder with --registry, or in FETTLE_REGISTRY")
        version = FolderRegistry(registry).find(reference(what))
        original = Artifacts([runs]).find(version.digest)
        if original is None:
            raise UserError(
                f"the run that made {version.id} is not in {runs}", fix="name what its folder lies in with --in"
            )
        return _of_artifact(original)
    for folder in (Path(what), runs / what):
        if records := [read_record(file) for file in (folder / FOLDER).glob("*.json")]:
            return folder.resolve(), max(records, key=lambda one: float(one["began"])), None
    tracked = find_run(read_runs(tracker or default_tracker(runs)), what)
    digest = tracked.tags.get("fettle.digest", "")
    record = tracked.out / FOLDER / f"{digest[:12]}.json"
    if not record.is_file():
        raise UserError(f"the run's folder is not here: {tracked.out}", expected="a run of this machine")
    return tracked.out, read_record(record), None


def _of_artifact(folder: Path) -> tuple[Path, dict[str, Any], str | None]:
    artifact = read_artifact(folder)
    run = folder.parents[1]
    for record in map(read_record, sorted((run / FOLDER).glob("*.json"))):
        for stage in record["stages"]:
            if stage["fingerprint"] == artifact.fingerprint:
                return run, record, stage["name"]
    raise UserError("no run here tells how it was made", file=folder, expected="an artifact in the folder of its run")


def _recipe(record: Mapping[str, Any]) -> Recipe:
    """As it was run; told to where the first run was."""
    try:
        recipe = recipe_as_run(record["settings"], Path(record["file"]))
    except UserError as error:
        raise UserError(
            f"what the run wrote down is no recipe for this fettle: {error.got}",
            file=error.file,
            field=error.field,
            expected=error.expected,
        ) from None
    told = record["tracking"]
    tracking = TrackingSpec(**told | {"uri": record["uri"]}) if told is not None else "off"
    # What a storage has of an earlier reproduction would be taken up, and nothing be run.
    return recipe.model_copy(update={"tracking": tracking, "storage": None})


def _up_to(stages: list[dict[str, Any]], until: str | None) -> list[dict[str, Any]]:
    names = [stage["name"] for stage in stages]
    return stages[: names.index(until) + 1] if until is not None else stages


def _tell_differences(
    then: list[dict[str, Any]], now: list[dict[str, Any]], is_changed_taken: bool, say: Callable[[str], None]
) -> None:
    """Raises UserError where what the run was given has changed, unless that is taken."""
    found = list(
        dict.fromkeys(
            one for was, is_now in zip(then, now, strict=True) for one in differences(was, finished(was), is_now)
        )
    )
    for one in found:
        say(f"differs    {one}")
    if not found and any(was["fingerprint"] != is_now["fingerprint"] for was, is_now in zip(then, now, strict=True)):
        say("differs    something that decides what is computed, such as the chat template or a reward model")
    changed = [one.what for one in found if one.is_given]
    if changed and not is_changed_taken:
        raise UserError(
            f"what the run was given has changed since: {', '.join(changed)}",
            fix="bring back what it was, or compare all the same with --changed",
        )
