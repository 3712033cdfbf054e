"""Runs of the small house that are tracked on a real MLflow in a SQLite file, without training anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from small_house import House, finish

from fettle.pipeline import tracking
from fettle.pipeline.graph import PlannedStage
from fettle.pipeline.recorded import EMBEDDED, FOLDER
from fettle.pipeline.telling import tell_rest
from fettle.pipeline.tracked_runs import TrackedRun, read_runs
from fettle.pipeline.tracker import Tracker
from fettle.recipe.tracking import embedded_uri


def begun(house: House, **overrides: Any) -> tuple[list[PlannedStage], Path]:
    """(the planned stages, the record of their run), the run's folder being there."""
    house.out.mkdir(exist_ok=True)
    recipe = house.recipe(**{"tracking": {}, **overrides})
    stages = house.plan(**{"tracking": {}, **overrides})
    record = tracking._begin(recipe, stages, house.out)
    assert record is not None
    return stages, record


def ended(record: Path, state: str = "finished") -> str:
    """Says how the run ended, and tells of it: why not everything was told, or an empty text."""
    tracking._note(record, state=state, ended=1_800_000_100.0, error="out of memory" if state == "failed" else "")
    ((_, why),) = tell_rest([record])
    return why


def finished(house: House, **overrides: Any) -> Path:
    """The record of a whole run that was told."""
    stages, record = begun(house, **overrides)
    for stage in stages:
        if not stage.is_done:
            finish(stage)
    assert ended(record) == ""
    return record


def runs_of(house: House) -> list[TrackedRun]:
    """What the tracker beside the run's folder knows."""
    return read_runs(uri_of(house))


def uri_of(house: House) -> str:
    return embedded_uri(house.folder / EMBEDDED)


def stage_runs(house: House) -> dict[str, Any]:
    """MLflow's run of each stage, by name and place: `instruct`, `instruct 2`."""
    client = Tracker(uri_of(house)).client
    (experiment,) = [one for one in client.search_experiments() if one.name == "northline"]
    found: dict[str, Any] = {}
    order = ["attributes.start_time ASC"]
    for run in client.search_runs([experiment.experiment_id], "tags.`fettle.kind` = 'stage'", order_by=order):
        name = run.info.run_name
        found[name if name not in found else f"{name} 2"] = run
    return found


def curve_of(house: House, run: Any, name: str) -> list[tuple[int, float]]:
    """(step, value) of a metric, in order."""
    history = Tracker(uri_of(house)).client.get_metric_history(run.info.run_id, name)
    return sorted((one.step, one.value) for one in history)


def pending(house: House) -> list[str]:
    return [file.name for file in (house.out / FOLDER).glob("*.pending")]


def is_loaded(module: str, program: str) -> bool:
    """Whether a program, run by itself, imports a module."""
    import subprocess

    code = f"import sys\n{program}\nimport json; print(json.dumps(sys.modules.get('{module}') is not None))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return bool(json.loads(told.stdout.splitlines()[-1]))
