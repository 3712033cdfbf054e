"""The runs that a tracker knows, read back; one of them found by what a user calls it; two of them compared.

A database file is read by itself: importing MLflow and asking it for 1,000 runs takes 5 to 12 s, its tables 0.3 s
(2026-11). Servers, and databases of another layout, are asked through MLflow's client.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.errors import UserError, did_you_mean
from fettle.pipeline.recorded import is_being_told

_OURS = "(SELECT run_uuid FROM tags WHERE key = 'fettle.kind' AND value = 'run')"
_RUNS = f"""SELECT r.run_uuid, r.name, e.name, r.start_time, r.end_time FROM runs r JOIN experiments e
    ON e.experiment_id = r.experiment_id WHERE r.lifecycle_stage = 'active' AND r.run_uuid IN {_OURS}"""


@dataclass(frozen=True)
class TrackedRun:
    """One recipe's run in one folder. began, ended: seconds since 1970. settings: what the recipe says, dotted key to
    text. metrics: of what its stages and evaluations came to, dotted."""

    id: str
    name: str
    experiment: str
    began: float
    ended: float | None
    tags: Mapping[str, str]
    settings: Mapping[str, str]
    metrics: Mapping[str, float]

    @property
    def state(self) -> str:
        """running, finished, gate failed, interrupted or failed."""
        told = self.tags.get("fettle.state", "running")
        # A machine that went off told nobody. Of a run elsewhere there is no knowing.
        return "interrupted" if told == "running" and self.out.is_dir() and not is_being_told(self.out) else told

    @property
    def out(self) -> Path:
        """Its folder, on the machine where it ran."""
        return Path(self.tags.get("fettle.out", ""))

    @property
    def stages(self) -> list[str]:
        """Their names, in order."""
        return [str(name) for name in json.loads(self.tags.get("fettle.stages", "[]"))]

    def stage(self, name: str) -> dict[str, Any]:
        """What it has of a stage: kind, data (path to digest), and of a finished one artifact and digest."""
        return dict(json.loads(self.tags.get(f"fettle.stage.{name}", "{}")))

    @property
    def result(self) -> str:
        """What it came to, in a few words: the first evaluation's first score, else the last reward or loss."""
        scores = [name for name in self.metrics if name.startswith("evaluate.") and ".after." in name]
        if scores:
            first = min(scores, key=lambda name: (int(name.split(".")[1]), name))
            return f"{first.rpartition('.')[2]} {self.metrics[first]:.3f}"
        for stage in reversed(self.stages):
            for kind in ("reward", "loss"):
                for which, told in (("heldout_after", " held out"), ("last", "")):
                    if (value := self.metrics.get(f"{stage}.{kind}.{which}")) is not None:
                        return f"{stage} {kind} {value:.3f}{told}"
        return "–"


def read_runs(uri: str) -> list[TrackedRun]:
    """Every run told to the tracker at this address, the latest first; none where there is no database yet.

    Raises UserError where a server does not answer, or a database is none of MLflow's.
    """
    found = None
    if uri.startswith("sqlite:///"):
        file = Path(uri.removeprefix("sqlite:///"))
        if not file.is_file():
            return []
        found = _of_database(file)
    return sorted(found if found is not None else _of_client(uri), key=lambda run: -run.began)


def find_run(runs: Sequence[TrackedRun], wanted: str) -> TrackedRun:
    """The latest run so called: by its name, its folder, or the beginning of its id. Raises UserError."""
    folder = Path(wanted).expanduser().resolve()
    tests: tuple[Callable[[TrackedRun], bool], ...] = (
        lambda run: run.name == wanted,
        lambda run: run.out == folder,
        lambda run: len(wanted) >= 4 and run.id.startswith(wanted),
    )
    for test in tests:
        if found := [run for run in runs if test(run)]:
            return found[0]
    raise UserError(
        f"no run '{wanted}' is tracked here{did_you_mean(wanted, {run.name for run in runs})}",
        expected="a run's name, its folder, or its id, as `fettle runs` lists them",
    )


def differences(one: TrackedRun, other: TrackedRun) -> Iterator[tuple[str, str, str, str]]:
    """(part, key, of one, of the other) of every setting and every data set that is not the same, and of all metrics
    that one of them has; an empty text for what it has not."""
    settings = sorted({**one.settings, **other.settings})
    for key in settings:
        pair = one.settings.get(key, ""), other.settings.get(key, "")
        if pair[0] != pair[1]:
            yield "recipe", key, *pair
    digests = [_data(run) for run in (one, other)]
    for key in dict.fromkeys([*digests[0], *digests[1]]):
        pair = digests[0].get(key, ""), digests[1].get(key, "")
        if pair[0] != pair[1]:
            yield "data", key, pair[0][:12], pair[1][:12]
    for key in dict.fromkeys([*one.metrics, *other.metrics]):
        if ".phases." not in key:
            yield "result", key, _number(one.metrics.get(key)), _number(other.metrics.get(key))


def _data(run: TrackedRun) -> dict[str, str]:
    return {
        f"{name}: {path}": str(digest)
        for name in run.stages
        for path, digest in run.stage(name).get("data", {}).items()
    }


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value == int(value) and abs(value) >= 10 else f"{value:.4g}"


def _of_database(file: Path) -> list[TrackedRun] | None:
    """None where its tables are not those of the MLflow that this was written for."""
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            rows = database.execute(_RUNS).fetchall()
            kept: dict[str, dict[str, dict[str, Any]]] = {}
            for table, condition in (("tags", ""), ("params", ""), ("latest_metrics", "AND is_nan = 0")):
                kept[table] = {}
                for run, key, value in database.execute(
                    f"SELECT run_uuid, key, value FROM {table} WHERE run_uuid IN {_OURS} {condition}"
                ):
                    kept[table].setdefault(run, {})[key] = value
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "not a database" in str(error):
            raise UserError(f"not readable as MLflow's database ({error})", file=file) from error
        return None
    return [
        TrackedRun(
            id=run,
            name=name,
            experiment=experiment,
            began=began / 1000,
            ended=ended / 1000 if ended else None,
            tags=kept["tags"].get(run, {}),
            settings=kept["params"].get(run, {}),
            metrics=dict(sorted(kept["latest_metrics"].get(run, {}).items())),
        )
        for run, name, experiment, began, ended in rows
    ]


def _of_client(uri: str) -> list[TrackedRun]:
    from fettle.pipeline.tracker import Tracker

    try:
        client = Tracker(uri).client
        names = {one.experiment_id: one.name for one in client.search_experiments()}
        found, page = [], None
        while page is None or page:
            told = client.search_runs(list(names), "tags.`fettle.kind` = 'run'", max_results=1000, page_token=page)
            found += list(told)
            page = told.token or ""
    except Exception as error:  # MLflow's client raises its own class, requests', or its database's
        raise UserError(f"the tracker at {uri} does not answer ({str(error).splitlines()[0][:200]})") from error
    return [
        TrackedRun(
            id=one.info.run_id,
            name=one.info.run_name,
            experiment=names[one.info.experiment_id],
            began=one.info.start_time / 1000,
            ended=one.info.end_time / 1000 if one.info.end_time else None,
            tags=one.data.tags,
            settings=one.data.params,
            metrics=dict(sorted(one.data.metrics.items())),
        )
        for one in found
    ]
