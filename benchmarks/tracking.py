"""1,000 tracked runs, listed and compared; and what tracking adds to the end of a run.

.venv/bin/python benchmarks/tracking.py [--runs 1000]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from fettle.artifact import new_artifact
from fettle.pipeline.recorded import EMBEDDED, FOLDER
from fettle.recipe.tracking import embedded_uri
from fettle.train.progress import ProgressWriter
from house_format import row, write_results

STAGES = ("domain", "instruct", "align")
STEPS = 1000
FETTLE = Path(sys.executable).with_name("fettle")
# What a listing costs where MLflow itself is asked for the very same runs.
CLIENT = """import sys
from fettle.pipeline import tracked_runs
print(len(tracked_runs._of_client(sys.argv[1])))"""


def fill(folder: Path, number: int) -> None:
    """A tracker with so many runs of three stages, each with 30 settings and a curve of 30 points."""
    from fettle.pipeline.tracker import Tracker

    tracker = Tracker(embedded_uri(folder / EMBEDDED))
    chance = random.Random(0)
    for place in range(number):
        experiment = tracker.experiment(f"recipe-{place % 20}")
        began, name = 1_700_000_000_000 + place * 60_000, f"run-{place}"
        tags = {"fettle.kind": "run", "fettle.state": "finished", "fettle.stages": json.dumps(STAGES)}
        tags |= {"fettle.out": str(folder / name), "fettle.recipe": f"recipe-{place % 20}"}
        tags |= {f"fettle.stage.{stage}": json.dumps({"data": {"a.jsonl": "0" * 64}}) for stage in STAGES}
        run, _ = tracker.run(experiment, "fettle.run", str(place), name=name, began=began, tags=tags)
        results = [
            (f"{stage}.loss.{which}", chance.random(), began, 0) for stage in STAGES for which in ("first", "last")
        ]
        tracker.tell(run, curve=results, params={f"stages.{key}": "1" for key in range(30)})
        for stage in STAGES:
            made = {"name": stage, "began": began, "tags": {"fettle.kind": "stage", "mlflow.parentRunId": run}}
            nested, _ = tracker.run(experiment, "fettle.stage", f"{place}/{stage}", **made)
            tracker.tell(nested, curve=[("loss", chance.random(), began + step, step) for step in range(30)])


def seconds(command: list[str], times: int = 5) -> float:
    """The median of a few calls, the whole process."""
    found = []
    for _ in range(times):
        began = time.monotonic()
        subprocess.run(command, check=True, capture_output=True)
        found.append(time.monotonic() - began)
    return median(found)


def end_of_a_run(folder: Path) -> tuple[float, float]:
    """(seconds from the end of a run's three stages of 1,000 steps until all is told, CPU seconds of who tells)."""
    out = folder / "ended"
    stages: list[dict[str, Any]] = []
    for name in STAGES:
        stage = out / "stages" / f"{name}-0"
        stage.mkdir(parents=True)
        stages.append({"name": name, "kind": "sft", "fingerprint": name, "folder": str(stage), "base": "tiny"})
        stages[-1] |= {"artifact": str(out / "artifacts" / f"{name}-0"), "from": "", "params": {}, "data": []}
    (out / FOLDER).mkdir()
    told = {
        "id": "0-0",
        "recipe": "ended",
        "file": "",
        "digest": "0",
        "seed": 0,
        "uri": None,
        "settings": {},
        "set": {},
    }
    told |= {
        "tracking": {"experiment": None},
        "stages": stages,
        "state": "running",
        "began": time.time(),
        "ended": None,
    }
    record = out / FOLDER / "0.json"
    record.write_text(json.dumps(told | {"error": ""}))
    command = [sys.executable, "-m", "fettle.pipeline.telling", str(record)]
    teller = subprocess.Popen(command, stdin=subprocess.PIPE)
    time.sleep(12)  # a run takes longer than MLflow does to be there
    for stage in stages:
        writer = ProgressWriter(Path(stage["folder"]) / "progress.jsonl")
        for step in range(1, STEPS + 1):
            writer.write(step=step, steps=STEPS, loss=1 / step, lr=1e-3, grad_norm=1.0, tokens=8, loss_tokens=4)
        metrics = {"loss": {"last": 0.5}}
        with new_artifact(Path(stage["artifact"]), kind="model", name=stage["name"], fingerprint="", metrics=metrics):
            pass
    record.write_text(json.dumps(told | {"error": "", "state": "finished", "ended": time.time()}))
    began = time.monotonic()
    assert teller.stdin is not None
    teller.stdin.close()
    used = _cpu_seconds_of(teller)
    if record.with_suffix(".pending").exists():
        raise RuntimeError("not everything was told")
    return time.monotonic() - began, used


def _cpu_seconds_of(process: subprocess.Popen[bytes]) -> float:
    """Once it has ended."""
    _, _, used = os.wait4(process.pid, 0)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    number = parser.parse_args().runs
    with TemporaryDirectory() as name:
        folder = Path(name)
        began = time.monotonic()
        fill(folder, number)
        print(f"{number} runs told in {time.monotonic() - began:.0f} s")
        listed = seconds([str(FETTLE), "runs", "--in", name])
        compared = seconds([str(FETTLE), "compare", "run-0", f"run-{number - 1}", "--in", name])
        client = seconds([sys.executable, "-c", CLIENT, embedded_uri(folder / EMBEDDED)], 3)
        ended, used = end_of_a_run(folder)
    what = f"{number:,} runs of three stages"
    rows = [
        row(f"fettle runs, {what}", "s", listed, "bound", 5.0, 5.0 / listed, limit=True),
        row(f"fettle runs, {what}", "s", listed, "MLflow's client", client, client / listed, limit=False),
        row(f"fettle compare, {what}", "s", compared, "bound", 5.0, 5.0 / compared, limit=True),
        row("end of a run of 3 stages of 1,000 steps, until told", "s", ended, "bound", 5.0, 5.0 / ended, limit=True),
        row("CPU time of the process that tells it", "s", used, "bound", 15.0, 15.0 / used, limit=True),
    ]
    for one in rows:
        print(f"{one['what']}: {one['fettle']:.2f} {one['unit']} ({one['peer']} {one['peer_value']:.2f})")
    write_results("tracking", rows, "one process")


if __name__ == "__main__":
    main()
