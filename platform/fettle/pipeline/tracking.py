"""The driver's side of tracking: writes into the run's folder what was planned (`recorded.py` says how it lies there),
and starts the process that tells it, where it is to be told. Nothing that trains knows of a tracker."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fettle.artifact import replace_text
from fettle.errors import GateFailed, Interrupted
from fettle.models.precision import instruction_set
from fettle.pipeline.planned import Planned, PlannedLearning, PlannedMerge, PlannedRl, PlannedSource, PlannedStage
from fettle.pipeline.recorded import FOLDER, why_pending
from fettle.recipe import Recipe
from fettle.recipe.tracking import TrackingSpec, embedded_uri

WAITS_S = 5.0
"""How long a finished run waits for its tracker at most."""
_NOT_TOLD = {"tracking", "storage", "sweep"}  # of a recipe's settings: they change nothing in what a run computes
_STARTS_S = 15.0  # a run shorter than it takes to import MLflow, and to make its database, waits until then


@contextmanager
def tracked(recipe: Recipe, stages: Sequence[Planned], out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Writes the run inside down, and has it told to the recipe's tracker, where it has one, by a process of its own; a
    line is said where it is not.

    Raises nothing of its own, and ends `WAITS_S` after the run is over at the latest, or 15 s after its start.
    """
    try:
        record = _begin(recipe, stages, out)
    except OSError as error:  # a full disk, which the run itself will tell of if it minds
        say(f"tracking  not told: {error}")
        record = None
    if record is None:
        yield
        return
    is_told = isinstance(recipe.tracking, TrackingSpec)
    teller, began = _start(out, record) if is_told else None, time.monotonic()
    state, error_text = "failed", ""
    try:
        yield
        state = "finished"
    except GateFailed as failed:
        state, error_text = "gate failed", str(failed)
        raise
    except BaseException as failed:
        # Inside the run an interrupt is a KeyboardInterrupt.
        state = "interrupted" if isinstance(failed, (KeyboardInterrupt, Interrupted)) else "failed"
        error_text = str(failed)
        raise
    finally:
        try:
            _note(record, state=state, ended=time.time(), error=error_text[:1000])
            waits = max(began + _STARTS_S, time.monotonic() + WAITS_S) - time.monotonic()
            why = _finish(teller, record, waits) if is_told else ""
        except OSError as error:
            why = str(error)
        if why:
            say(f"tracking  not all told ({why}); fettle runs --sync tells the rest")


def _begin(recipe: Recipe, stages: Sequence[Planned], out: Path) -> Path | None:
    """Writes down what there is to tell of the run, and gives the file; None where all of it is there already."""
    tracking = recipe.tracking.model_dump(mode="json") if isinstance(recipe.tracking, TrackingSpec) else None
    folder = out / FOLDER
    folder.mkdir(exist_ok=True)
    if not (folder / "id").is_file():
        replace_text(folder / "id", uuid.uuid4().hex)
    digest = recipe.digest()
    record = folder / f"{digest[:12]}.json"
    told = {
        "id": f"{(folder / 'id').read_text(encoding='utf-8')}-{digest[:12]}",
        "recipe": recipe.name,
        "file": str(recipe.file),
        "digest": digest,
        "seed": recipe.seed,
        "tracking": tracking,
        # Where a relative one leads is known here only, where the recipe's file is.
        "uri": _resolved(recipe),
        "settings": recipe.model_dump(mode="json", by_alias=True, exclude=_NOT_TOLD, exclude_unset=True),
        "set": flat(_by_name(recipe.model_dump(mode="json", exclude=_NOT_TOLD, exclude_unset=True))),
        "stages": [told_of(stage) for stage in stages],
        "registry": str(recipe.resolve(recipe.publish.registry)) if recipe.publish is not None else None,
        "state": "running",
        "began": time.time(),
        "ended": None,
        "error": "",
    }
    if _is_told(record, told):
        return None
    if tracking is not None:
        record.with_suffix(".pending").touch()
    replace_text(record, json.dumps(told, indent=1))
    return record


def _is_told(record: Path, told: Mapping[str, Any]) -> bool:
    """Whether there is nothing new to tell: a run of the very same stages was told wholly, and they are all done. One
    that is not to be told leaves alone what an earlier one was to tell."""
    if not record.is_file():
        return False
    if why_pending(record):
        return told["tracking"] is None
    if not all(stage["was_done"] for stage in told["stages"]):
        return False
    before = json.loads(record.read_text(encoding="utf-8"))
    if before["tracking"] is None and told["tracking"] is not None:
        return False
    same = [(one["fingerprint"], one["artifact"]) for one in before["stages"]] == [
        (one["fingerprint"], one["artifact"]) for one in told["stages"]
    ]
    return same and before["state"] == "finished" and before["uri"] == told["uri"]


def _resolved(recipe: Recipe) -> str | None:
    uri = recipe.tracking.uri if isinstance(recipe.tracking, TrackingSpec) else None
    if uri is None or "://" in uri:
        return uri
    return embedded_uri(recipe.resolve(uri))


def told_of(stage: Planned) -> dict[str, Any]:
    """What decides a stage, and where its files are."""
    told: dict[str, Any] = {
        "name": stage.spec.name,
        "kind": stage.spec.kind,
        "fingerprint": stage.fingerprint,
        "folder": str(stage.folder),
        "artifact": str(stage.artifact),
        "base": str(stage.origin.root),
        "from": stage.origin.identity,
        "precision": stage.precision,
        "instructions": instruction_set(),
        "was_done": stage.is_done,
        "params": flat(stage.spec.model_dump(mode="json", by_alias=True, exclude={"name"}))
        | flat({"cluster": stage.cluster.model_dump(mode="json", exclude={"precision"}), "precision": stage.precision}),
        "data": [_source(source) for source in _sources(stage)],
    }
    if isinstance(stage, PlannedRl):
        told["data"] += [{"use": "code", "path": name, "digest": digest, "files": []} for name, digest in stage.code]
    if isinstance(stage, PlannedLearning):
        told["params"] |= flat({"adapter": stage.adapter.model_dump(mode="json"), "max_length": stage.max_length})
    if isinstance(stage, PlannedMerge):
        told["params"] |= flat({"adapters": [[str(folder), weight] for folder, weight in stage.adapters]})
    return told


def _sources(stage: Planned) -> Iterator[tuple[str, PlannedSource]]:
    """Each source with what the stage has it for."""
    if isinstance(stage, PlannedStage):
        for source in stage.sources:
            yield ("replay" if ".replay" in source.field else "training"), source
    elif isinstance(stage, PlannedRl):
        for source in stage.prompts:
            yield "prompts", source
    if isinstance(stage, (PlannedStage, PlannedRl)) and stage.heldout is not None:
        yield "held out", stage.heldout


def _source(named: tuple[str, PlannedSource]) -> dict[str, Any]:
    use, source = named
    path = source.opened.spec.path
    return {"use": use, "path": path, "digest": source.digest, "files": [str(file) for file in source.opened.files]}


def _by_name(settings: dict[str, Any]) -> dict[str, Any]:
    """A recipe's settings with its stages by their names, as `--set` has them."""
    named = {
        stage["name"]: {key: value for key, value in stage.items() if key != "name"} for stage in settings["stages"]
    }
    return settings | {"stages": named}


def flat(settings: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Dotted key to text, as `--set` has it; what is None or empty is left out."""
    found: dict[str, str] = {}
    for key, value in settings.items():
        if isinstance(value, (list, tuple)) and any(isinstance(one, Mapping) for one in value):
            value = {str(number): one for number, one in enumerate(value)}
        if isinstance(value, Mapping):
            found |= flat(value, f"{above}{key}.")
        elif value is not None and value not in ([], ()):
            found[f"{above}{key}"] = value if isinstance(value, str) else json.dumps(value)
    return found


def _start(out: Path, record: Path) -> subprocess.Popen[bytes] | None:
    """The process that tells, until its standard input ends. None where none can be started."""
    try:
        (out / "logs").mkdir(exist_ok=True)
        with open(out / "logs" / "tracking.log", "ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "fettle.pipeline.telling", str(record)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the run's, which tells of it
            )
    except OSError:
        return None


def _note(record: Path, **told: Any) -> None:
    replace_text(record, json.dumps(json.loads(record.read_text(encoding="utf-8")) | told, indent=1))


def _finish(teller: subprocess.Popen[bytes] | None, record: Path, seconds: float) -> str:
    """Lets the process tell the rest; why not everything was told, or an empty text."""
    if teller is None:
        return "its process did not start"
    assert teller.stdin is not None
    teller.stdin.close()
    try:
        teller.wait(seconds)
    except subprocess.TimeoutExpired:
        teller.kill()
        teller.wait()
        return "the tracker is too slow"
    return why_pending(record)
