"""What a run has come to, told to its tracker: `python -m fettle.pipeline.telling OUT/tracking/HASH.json` looks for
what is new until its standard input ends. All is read from the run's folder; what was told is not told again."""

from __future__ import annotations

import json
import logging
import math
import os
import select
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from fettle.artifact import MANIFEST, is_artifact, read_artifact
from fettle.pipeline.mirror import link, mirror
from fettle.pipeline.recorded import alone, read_record, tracker_of, why_pending
from fettle.pipeline.tracker import Curve, Tracker, reason, without_login
from fettle.rl.recorder import ITERATIONS, IterationRow, read_rows
from fettle.train.progress import StepRow, read_progress

_EVERY_S = 10.0
_STATUS = {"running": "RUNNING", "finished": "FINISHED", "gate failed": "FINISHED", "interrupted": "KILLED"}
_TOLD, _STEP, _ITERATION = "fettle.told", "fettle.step", "fettle.iteration"


@dataclass
class _Stage:
    """What the tracker has of a stage. place: in its file of steps."""

    run: str
    tags: dict[str, str]
    place: int = 0


class Teller:
    """Of one run, as `tracking.py` wrote it down."""

    def __init__(self, record: Path) -> None:
        self.record, self.out = record, record.parents[1]
        self.stages: dict[str, _Stage] = {}
        self.tracker: Tracker | None = None
        self.parent = ""

    def tell(self, is_over: bool) -> None:
        """Tells what is new. is_over: the run does not go on, and this is all. Raises what MLflow raises."""
        told = read_record(self.record)
        if is_over and told["state"] == "running":
            told["state"] = "interrupted"  # the driver died before it could say so
        self.tracker = self.tracker or Tracker(tracker_of(told, self.out))
        experiment = self.tracker.experiment(told["tracking"]["experiment"] or told["recipe"])
        if not self.parent:
            self.parent = self._begin(told, experiment)
        for stage in told["stages"]:
            self._stage(self.tracker, experiment, told, stage, is_over)
        if is_over:
            self._end(told)

    def _begin(self, told: Mapping[str, Any], experiment: str) -> str:
        assert self.tracker is not None
        tags = {"fettle.kind": "run", "fettle.recipe": told["recipe"], "fettle.digest": told["digest"]}
        tags |= {"mlflow.source.name": told["file"], "mlflow.source.type": "LOCAL", "fettle.out": str(self.out)}
        made = {"name": self.out.name, "began": _ms(told["began"]), "tags": tags}
        run, known = self.tracker.run(experiment, "fettle.run", told["id"], **made)
        if _TOLD not in known:
            self.tracker.tell(run, params=told["set"] | {"seed": str(told["seed"])}, tags={_TOLD: "begun"})
        # Of one that was interrupted too: it goes on.
        self.tracker.client.update_run(run, "RUNNING")
        now = {"fettle.out": str(self.out), "fettle.state": "running"}
        self.tracker.tell(run, tags=now | {"fettle.stages": json.dumps([stage["name"] for stage in told["stages"]])})
        return run

    def _stage(
        self, tracker: Tracker, experiment: str, told: Mapping[str, Any], stage: Mapping[str, Any], is_over: bool
    ) -> None:
        artifact, progress = Path(stage["artifact"]), Path(stage["folder"]) / "progress.jsonl"
        if not is_artifact(artifact) and not progress.is_file():
            return
        key = f"{told['id'].partition('-')[0]}/{artifact.name}"
        rows, place = read_progress(progress, self.stages[key].place if key in self.stages else 0)
        if key not in self.stages:
            self.stages[key] = self._begin_stage(tracker, experiment, key, told, stage, rows)
        there = self.stages[key]
        if there.tags[_TOLD] == "whole":
            return
        # An attempt that goes on from a checkpoint takes the same steps again, with the very same losses.
        new = {row.step: row for row in rows if row.step > int(there.tags.get(_STEP, 0))}
        if new:
            there.tags[_STEP] = str(max(new))
            tracker.tell(there.run, curve=_steps(list(new.values())), tags={_STEP: there.tags[_STEP]})
        there.place = place
        if is_artifact(artifact):
            self._end_stage(tracker, there, stage, artifact)
        elif is_over:
            tracker.client.set_terminated(there.run, _STATUS.get(told["state"], "FAILED"))

    def _begin_stage(
        self,
        tracker: Tracker,
        experiment: str,
        key: str,
        told: Mapping[str, Any],
        stage: Mapping[str, Any],
        rows: list[StepRow],
    ) -> _Stage:
        tags = {"fettle.kind": "stage", "mlflow.parentRunId": self.parent, "fettle.fingerprint": stage["fingerprint"]}
        began = _ms(rows[0].time if rows else told["began"])
        run, known = tracker.run(experiment, "fettle.stage", key, name=stage["name"], began=began, tags=tags)
        if _TOLD not in known:
            tracker.tell_data(run, stage["data"])
            digests = {one["path"]: one["digest"] for one in stage["data"]}
            tracker.tell(run, params=stage["params"] | {"base": stage["base"], "seed": str(told["seed"])})
            known |= {_TOLD: "begun", "fettle.data": json.dumps(digests), "fettle.from": stage["from"]}
            tracker.tell(run, tags={name: known[name] for name in ("fettle.data", "fettle.from", _TOLD)})
        if known[_TOLD] != "whole":
            tracker.client.update_run(run, "RUNNING")
        return _Stage(run, known)

    def _end_stage(self, tracker: Tracker, there: _Stage, stage: Mapping[str, Any], folder: Path) -> None:
        artifact = read_artifact(folder)
        if (file := Path(stage["folder"]) / ITERATIONS).is_file():
            done = int(there.tags.get(_ITERATION, 0))
            iterations = read_rows(file)
            first = read_progress(Path(stage["folder"]) / "progress.jsonl")[0][:1]
            began = first[0].time if first else 0.0
            tracker.tell(there.run, curve=_iterations(iterations, began, done), tags={_ITERATION: str(len(iterations))})
        ended = int((folder / MANIFEST).stat().st_mtime * 1000)
        tracker.tell(there.run, curve=[(name, value, ended, 0) for name, value in numbers(artifact.metrics)])
        tracker.client.log_artifact(there.run, str(folder / MANIFEST))
        tags = {
            "fettle.artifact": str(artifact.path),
            "fettle.artifact.kind": artifact.kind,
            "fettle.artifact.digest": artifact.digest,
            "fettle.base": json.dumps(artifact.base),
            "fettle.parents": json.dumps(artifact.parents),
            "fettle.versions": json.dumps(artifact.versions),
            "fettle.licences": json.dumps(artifact.licences),
            "fettle.unlicensed": json.dumps(artifact.unlicensed),
            "fettle.code": artifact.code,
        }
        tracker.client.set_terminated(there.run, "FINISHED", ended)
        tracker.tell(there.run, tags=tags | {_TOLD: "whole"})
        there.tags[_TOLD] = "whole"

    def _end(self, told: Mapping[str, Any]) -> None:
        """The run's own metrics: what each stage came to, and its evaluations; the report; its state."""
        assert self.tracker is not None
        client, ended = self.tracker.client, _ms(told["ended"] or told["began"])
        results, tags = dict[str, Any](), {"fettle.state": told["state"], "fettle.error": told["error"]}
        for stage in told["stages"]:
            one: dict[str, Any] = {"kind": stage["kind"], "data": {one["path"]: one["digest"] for one in stage["data"]}}
            if is_artifact(stage["artifact"]):
                artifact = read_artifact(stage["artifact"])
                results[stage["name"]] = artifact.metrics
                one |= {"artifact": str(artifact.path), "digest": artifact.digest, "base": stage["base"]}
            tags[f"fettle.stage.{stage['name']}"] = json.dumps(one)
        report = _report(self.out, told)
        for number, compared in enumerate(report.get("evaluations", ())):
            results[f"evaluate.{number}"] = {
                side: {name: score["mean"] for name, score in compared[side]["scores"].items()}
                for side in ("before", "few_shot", "after")
                if compared.get(side)
            }
            kept = {row["stage"]: row["forgetting"]["mean"] for row in compared.get("stages", ())}  # of retention
            results[f"evaluate.{number}"] |= {"forgetting": kept}
        if report.get("published"):
            tags["fettle.published"] = report["published"]
        self.tracker.tell(self.parent, curve=[(name, value, ended, 0) for name, value in numbers(results)])
        client.log_text(self.parent, yaml.safe_dump(told["settings"], sort_keys=False), "recipe.yaml")
        if report:
            for name in ("report.json", "report.html"):
                client.log_artifact(self.parent, str(self.out / name))
        self.tracker.tell(self.parent, tags=tags)
        if report.get("published"):
            registry, name = Path(told["registry"]), report["published"].partition(":")[0]
            link(registry, name, tracker_of(told, self.out))
            mirror(registry, name, self.tracker)
        client.set_terminated(self.parent, _STATUS.get(told["state"], "FAILED"), ended)


def tell_rest(records: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Tells what has not been told of runs that are over, and yields each with why not everything, or an empty text. A
    run under way is left to its own process; a tracker that failed is not asked again."""
    failed = dict[str, str]()
    for record in records:
        uri = tracker_of(read_record(record), record.parents[1])
        with alone(record.parent, waits=False) as is_alone:
            if is_alone and uri not in failed:
                _tell(Teller(record), is_over=True)
                if why := why_pending(record):
                    failed[uri] = why
        yield record, failed.get(uri, "")


def numbers(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, float]]:
    """Dotted name and value of every finite number in nested mappings."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{above}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{above}{key}", float(value)


def _steps(rows: list[StepRow]) -> Curve:
    told = ("loss", "lr", "grad_norm", "tokens", "reward")
    found = [(name, getattr(row, name), _ms(row.time), row.step) for row in rows for name in told]
    return [one for one in found if one[1] is not None and math.isfinite(one[1])]


def _iterations(rows: list[IterationRow], began: float, done: int) -> Curve:
    times = accumulate((row.seconds for row in rows), initial=began)
    next(times)
    return [
        (f"iteration.{name}", value, _ms(when), row.iteration)
        for row, when in zip(rows, times, strict=True)
        if row.iteration >= done
        for name, value in numbers(vars(row))
        if name != "iteration"
    ]


def _report(out: Path, told: Mapping[str, Any]) -> dict[str, Any]:
    """report.json, where it is of this run and not of another one in the same folder."""
    try:
        report: dict[str, Any] = json.loads((out / "report.json").read_text(encoding="utf-8"))
        reported = [stage["artifact"]["path"] for stage in report["stages"]]
    except (OSError, ValueError, LookupError):
        return {}
    return report if reported == [stage["artifact"] for stage in told["stages"]] else {}


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _tell(teller: Teller, is_over: bool) -> None:
    """Tells what is new; beside the record it says why not."""
    pending = teller.record.with_suffix(".pending")
    try:
        teller.tell(is_over)
    except Exception as error:  # MLflow, its database and its server raise any class, and none is a reason to end
        logging.getLogger(__name__).warning("not told: %s", without_login(str(error)))
        with suppress(OSError):  # of a full disk; that it is pending it says since the run began
            pending.write_text(reason(error), encoding="utf-8")
        return
    if is_over:
        pending.unlink(missing_ok=True)


def main(record: Path) -> None:
    """Tells until standard input ends, and then the rest."""
    logging.basicConfig(format="%(asctime)s %(message)s")
    os.nice(5)  # those who train go first
    with alone(record.parent, waits=True):
        record.with_suffix(".pending").touch()
        teller = Teller(record)
        is_over = False
        while not is_over:
            _tell(teller, is_over=False)
            is_over = bool(select.select([sys.stdin], [], [], _EVERY_S)[0])
        _tell(teller, is_over=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `ray job stop` sends it to all of a driver's children
    main(Path(sys.argv[1]))
