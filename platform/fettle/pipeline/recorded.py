"""What a run's folder holds for its tracker, and where that is. Light: whoever tells of a run loads no torch.

OUT/tracking/id is what MLflow knows the folder by. OUT/tracking/HASH.json is one recipe's run, HASH the beginning of
its digest, and HASH.pending beside it says that something of it has not been told yet: it is made before the run, and
goes when the tracker has taken everything. Curves, artifacts and evaluations are read from where the run keeps them:
there is no other buffer.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fettle.recipe.tracking import embedded_uri

FOLDER = "tracking"
EMBEDDED = ".mlflow"
"""The embedded tracker's folder, beside those of the runs."""


def read_record(record: Path) -> dict[str, Any]:
    """One recipe's run, as the driver wrote it down."""
    told: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
    return told


def tracker_of(recorded: Mapping[str, Any], out: Path) -> str:
    """The address that a run is told to: its recipe's, else as `default_tracker`."""
    return recorded["uri"] or default_tracker(out.parent)


def default_tracker(runs: Path) -> str:
    """Where the runs in a folder are told if their recipes do not say: MLflow's own setting, or the embedded one."""
    return os.environ.get("MLFLOW_TRACKING_URI") or embedded_uri(runs / EMBEDDED)


def pending_records(runs: Path) -> list[Path]:
    """Of runs in this folder that have not been told wholly, and that no process is telling of."""
    found = sorted(file.with_suffix(".json") for file in runs.glob(f"*/{FOLDER}/*.pending"))
    return [record for record in found if record.is_file() and not is_being_told(record.parents[1])]


def registries_of(runs: Path) -> list[Path]:
    """Those that the runs in this folder publish in."""
    found = (read_record(file).get("registry") for file in sorted(runs.glob(f"*/{FOLDER}/*.json")))
    return list(dict.fromkeys(Path(registry) for registry in found if registry))


def why_pending(record: Path) -> str:
    """Why a run has not been told wholly, in one line; empty where it has."""
    try:
        why = record.with_suffix(".pending").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""
    return why or f"see {record.parents[1] / 'logs' / 'tracking.log'}"


def is_being_told(out: Path) -> bool:
    """Whether a process tells of the run in this folder right now, which one does as long as it lasts."""
    if not (out / FOLDER).is_dir():
        return False
    with alone(out / FOLDER, waits=False) as is_alone:
        return not is_alone


@contextmanager
def alone(folder: Path, *, waits: bool) -> Iterator[bool]:
    """Whether no other process tells of this folder's runs, which no other does inside, then."""
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
