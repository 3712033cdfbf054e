"""What a registry's folder says of a name, told to a tracker's model registry.

The folder is what counts, for serving and for everybody else (docs/decisions/0010). ROOT/NAME/tracker/told.json names
the tracker and what it has been told, and is no more than that: what is missing is told from the folder, as often as
one likes. `python -m fettle.pipeline.mirror ROOT NAME` does so.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from fettle.artifact import is_artifact, read_artifact, replace_text
from fettle.pipeline.recorded import FOLDER as RUNS_FOLDER
from fettle.pipeline.recorded import alone, read_record, tracker_of
from fettle.pipeline.tracker import Tracker, reason
from fettle.registry.folder import FolderRegistry
from fettle.registry.stored import Version

_FOLDER, _TOLD = "tracker", "told.json"
_NOT_MLFLOWS = re.compile(r"latest|v\d+")  # aliases that MLflow keeps for itself


@dataclass(frozen=True)
class Told:
    """What the tracker at `uri` knows of a name. last: the newest version. others: of our versions those that MLflow
    numbers otherwise, with its number. aliases: where they point, as we number. why: the last time not all was told."""

    uri: str
    last: int = 0
    others: dict[str, int] = field(default_factory=dict)
    aliases: dict[str, int] = field(default_factory=dict)
    why: str = ""

    def number(self, ours: int) -> int:
        """MLflow's of one of our versions."""
        return self.others.get(str(ours), ours)


def told_of_name(root: Path, name: str) -> Told | None:
    """What has been told of a name, None where no tracker is."""
    try:
        return Told(**json.loads((root / name / _FOLDER / _TOLD).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None


def link(root: Path, name: str, uri: str) -> None:
    """Has a published name told to the tracker at `uri` from now on."""
    before = told_of_name(root, name)
    if before is None or before.uri != uri:
        _note(root, name, Told(uri))


def link_of(artifact: Path) -> str | None:
    """The tracker that an artifact's own run is told to, else MLflow's own setting; None where there is neither."""
    run = artifact.resolve().parent.parent
    if is_artifact(artifact):
        digest = read_artifact(artifact).recipe
        record = run / RUNS_FOLDER / f"{digest[:12]}.json"
        if record.is_file() and (recorded := read_record(record))["tracking"] is not None:
            return tracker_of(recorded, run)
    return os.environ.get("MLFLOW_TRACKING_URI")


def pending_names(root: Path) -> Iterator[str]:
    """Those of a registry that a tracker has not been told all of."""
    registry = FolderRegistry(root)
    for name in registry.names():
        told = told_of_name(root, name)
        if told is not None and (told.last != registry.newest(name) or told.aliases != registry.aliases(name)):
            yield name


def tell_in_background(root: Path, name: str) -> None:
    """Tells what is new of a name, where a tracker is told of it, in a process of its own, for which nobody waits."""
    if told_of_name(root, name) is None:
        return
    with suppress(OSError), open(root / name / _FOLDER / "telling.log", "ab") as log:
        subprocess.Popen(
            [sys.executable, "-m", "fettle.pipeline.mirror", str(root), name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def tell_name(root: Path, name: str) -> str:
    """Tells what is new of a name; why not everything was told, or an empty text."""
    told = told_of_name(root, name)
    if told is None:
        return "no tracker is told of it"
    try:
        mirror(root, name, Tracker(told.uri))
    except Exception as error:  # as in telling.py: MLflow, its database and its server raise any class
        why = reason(error)
        with suppress(OSError):
            _note(root, name, replace(told_of_name(root, name) or told, why=why))
        return why
    return ""


def mirror(root: Path, name: str, tracker: Tracker) -> None:
    """Tells a tracker what is new of a name: its versions, then where its aliases point. Raises what MLflow raises;
    what was told until then is not told again."""
    with alone(root / name / _FOLDER, waits=True):
        registry, told = FolderRegistry(root), told_of_name(root, name)
        assert told is not None
        try:
            versions = registry.versions(name)
            for version in (one for one in versions if one.number > told.last):
                told = _with(told, version, _version(tracker, version, told.uri, is_first=told.last == 0))
            aliases, there = registry.aliases(name), {version.number for version in versions}
            for alias in sorted({*aliases, *told.aliases}):
                number = aliases.get(alias)
                if number is None:
                    tracker.client.delete_registered_model_alias(name, _alias(alias))
                elif told.aliases.get(alias) != number and number in there:
                    tracker.client.set_registered_model_alias(name, _alias(alias), str(told.number(number)))
            told = replace(told, aliases=aliases, why="")
        finally:
            _note(root, name, told)


def _with(told: Told, version: Version, theirs: int) -> Told:
    others = told.others if theirs == version.number else told.others | {str(version.number): theirs}
    return replace(told, last=version.number, others=others)


def _version(tracker: Tracker, version: Version, uri: str, *, is_first: bool) -> int:
    """MLflow's number of a version, which is made there unless it is already."""
    client = tracker.client
    if is_first and not client.search_registered_models(f"name = '{version.name}'"):
        client.create_registered_model(version.name, description="published by fettle, whose registry is a folder")
    known = f"name = '{version.name}' AND tags.`fettle.version` = '{version.id}'"
    for one in client.search_model_versions(f"{known} AND tags.`fettle.digest` = '{version.digest}'", max_results=1):
        return int(one.version)
    tags: dict[str, Any] = {"fettle.version": version.id, "fettle.number": str(version.number)}
    tags |= {"fettle.digest": version.digest, "fettle.kind": version.kind, "fettle.folder": str(version.folder)}
    tags |= {"fettle.published": version.published}
    if version.base is not None:
        tags |= {"fettle.base": version.base["path"], "fettle.base.digest": version.base["digest"]}
    run = tracker.run_with("fettle.artifact.digest", version.digest)
    # A server takes no folder of another machine for a source, and of other addresses only absolute ones.
    is_here = uri.startswith("sqlite:")
    source = str(version.folder) if is_here else f"fettle:///{version.name}/{version.number}"
    made = client.create_model_version(version.name, source, run, tags=tags, await_creation_for=0)
    return int(made.version)


def _alias(alias: str) -> str:
    return f"alias-{alias}" if _NOT_MLFLOWS.fullmatch(alias) else alias


def _note(root: Path, name: str, told: Told) -> None:
    folder = root / name / _FOLDER
    folder.mkdir(exist_ok=True)
    replace_text(folder / _TOLD, json.dumps(asdict(told), indent=1))


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s")
    os.nice(5)
    if not_told := tell_name(Path(sys.argv[1]), sys.argv[2]):
        logging.warning("not told: %s", not_told)
