"""Kills a run again and again, runs the same command again, and compares what comes out with an undisturbed run's.

    python benchmarks/chaos.py                        # 50 kills at random moments; `make chaos`
    python benchmarks/chaos.py --kills 2 --every 300 --set stages.domain.max_steps=…    # the share of time that counts

What is killed with SIGKILL, in turn: a worker, the Ray Train controller, the driver, the raylet; and SIGTERM to the
driver. A killed worker or controller is replaced by the run itself; after all else the command is given again, as a
user would. At the end every artifact's digest has to be that of the undisturbed run, and nothing half-written may be left.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil

HERE = Path(__file__).parent
FETTLE = [sys.executable, "-c", "from fettle.cli.main import main; main()"]
TARGETS = ("worker", "controller", "driver", "raylet", "notice")
_NAMES = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController", "raylet": "raylet"}


@dataclass
class Disturbed:
    """What a run went through. lost: of each kill, the seconds until training was as far as it had been."""

    seconds: float = 0.0
    starts: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: list[float] = field(default_factory=list)
    steps_again: list[int] = field(default_factory=list)


def start(recipe: Path, out: Path, sets: list[str]) -> subprocess.Popen[bytes]:
    """The run, as a user starts it."""
    words = ["run", str(recipe), "--out", str(out), *(word for one in sets for word in ("--set", one))]
    with open(out.with_suffix(".log"), "ab") as log:
        return subprocess.Popen([*FETTLE, *words], stdout=log, stderr=log, start_new_session=True)


def undisturbed(recipe: Path, out: Path, sets: list[str]) -> float:
    """Runs it to its end; seconds."""
    began = time.monotonic()
    process = start(recipe, out, sets)
    if process.wait() != 0:
        raise SystemExit(f"the undisturbed run failed: {out.with_suffix('.log').read_text()[-2000:]}")
    return time.monotonic() - began


def disturbed(
    recipe: Path, out: Path, sets: list[str], kills: int, seed: int, usual_s: float, every_s: float | None
) -> Disturbed:
    """Runs it to its end, and kills something `kills` times on the way: every so many seconds, or at random moments."""
    drawn, told = random.Random(seed), Disturbed()
    began = time.monotonic()
    process: subprocess.Popen[bytes] | None = None
    while True:
        if process is None or process.poll() is not None:
            if process is not None and process.returncode == 0:
                break
            if process is not None and sum(told.kills.values()) >= kills and told.starts > 3 * kills + 3:
                raise SystemExit(f"it does not come to an end: {out.with_suffix('.log').read_text()[-2000:]}")
            process, told.starts = start(recipe, out, sets), told.starts + 1
        if sum(told.kills.values()) >= kills:
            wait_for_end(process)
            continue
        target = TARGETS[sum(told.kills.values()) % len(TARGETS)]
        # Not before it trains every other time: a run that is always killed while it starts would never get anywhere.
        moment = every_s or drawn.uniform(0, usual_s / 2)
        if every_s is None and drawn.random() < 0.5:
            wait_for_training(process, out)
            moment = drawn.uniform(0, 6)
        if wait_for_end(process, moment):
            continue
        before = progress(out)
        if kill(process, target):
            told.kills[target] += 1
            at = time.monotonic()
            process = recovered(process, recipe, out, sets, told)
            while process.poll() is None and not is_as_far(progress(out), before):
                time.sleep(0.1)
            told.lost.append(time.monotonic() - at)
            told.steps_again.append(repeated(out, before))
    told.seconds = time.monotonic() - began
    return told


def recovered(
    process: subprocess.Popen[bytes], recipe: Path, out: Path, sets: list[str], told: Disturbed
) -> subprocess.Popen[bytes]:
    """The run that goes on after a kill: the same, where it lives on, else the command given again."""
    if wait_for_end(process, 5.0) and process.returncode != 0:
        told.starts += 1
        return start(recipe, out, sets)
    return process


def kill(process: subprocess.Popen[bytes], target: str) -> bool:
    """Whether there was anything of that sort to be killed."""
    if target in ("driver", "notice"):
        process.send_signal(signal.SIGKILL if target == "driver" else signal.SIGTERM)
        return True
    try:
        found = [one for one in psutil.Process(process.pid).children(recursive=True) if _NAMES[target] in name_of(one)]
        if not found:
            return False
        found[0].kill()
    except psutil.NoSuchProcess:
        return False
    return True


def name_of(process: psutil.Process) -> str:
    """What it calls itself."""
    try:
        return f"{process.name()} {' '.join(process.cmdline()[:1])}"
    except psutil.Error:
        return ""


def wait_for_end(process: subprocess.Popen[bytes], seconds: float | None = None) -> bool:
    """Whether it ended in the time."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def wait_for_training(process: subprocess.Popen[bytes], out: Path) -> None:
    """Until it has made a step, or ends."""
    before = sum(len(steps) for steps in rows(out).values())
    while process.poll() is None and sum(len(steps) for steps in rows(out).values()) <= before:
        time.sleep(0.1)


def rows(out: Path) -> dict[str, list[int]]:
    """The steps of each stage as they were written down, repeated ones too."""
    found = {}
    for file in out.glob("stages/*/progress.jsonl"):
        lines = file.read_bytes().split(b"\n")[:-1]
        found[file.parent.name] = [json.loads(line)["step"] for line in lines]
    return found


def progress(out: Path) -> dict[str, int]:
    """Of each stage the rows there are, and the furthest step."""
    return {name: max(steps, default=0) for name, steps in rows(out).items()}


def is_as_far(now: dict[str, int], before: dict[str, int]) -> bool:
    """Whether it has made a step beyond, in any stage."""
    return any(step > before.get(name, 0) for name, step in now.items())


def repeated(out: Path, before: dict[str, int]) -> int:
    """Steps, of those made before the kill, that were made once more after it, in the stage that was under way."""
    most = 0
    for name, steps in rows(out).items():
        if before.get(name):
            at = max(place for place, step in enumerate(steps) if step == before[name])
            again = [step for step in steps[at + 1 :] if step <= before[name]]
            most = max(most, len(set(again)))
    return most


def digests(out: Path) -> dict[str, str]:
    """Of every artifact, by its stage."""
    found = {}
    for file in sorted(out.glob("artifacts/*/artifact.json")):
        told = json.loads(file.read_text())
        found[told["name"]] = told["digest"]
    return found


def left_over(out: Path) -> list[str]:
    """What is half-written below the run's folder."""
    return sorted(
        str(one.relative_to(out)) for one in out.rglob(".*") if ".partial" in one.name or ".dropped" in one.name
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, default=HERE / "chaos.yaml")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=float, help="seconds between two kills; by default at random moments")
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--keep", type=Path, help="a folder for both runs that stays")
    told = parser.parse_args()
    folder = told.keep or Path(tempfile.mkdtemp(prefix="fettle-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    usual = undisturbed(told.recipe, folder / "undisturbed", told.sets)
    print(f"undisturbed: {usual:.0f} s")
    found = disturbed(told.recipe, folder / "disturbed", told.sets, told.kills, told.seed, usual, told.every)
    kills = ", ".join(f"{name} {count}" for name, count in sorted(found.kills.items()))
    lost = sorted(found.lost)
    print(f"killed {sum(found.kills.values())} times ({kills}); the command was given {found.starts} times")
    print(f"in all {found.seconds:.0f} s; after a kill back where it was within {lost[len(lost) // 2]:.0f} s (median),")
    print(f"{lost[-1]:.0f} s at most; at most {max(found.steps_again)} steps made again")
    print(f"share of the time that counts: {usual / found.seconds:.2f}")
    same = digests(folder / "disturbed") == digests(folder / "undisturbed")
    half = left_over(folder / "disturbed")
    print(f"artifacts: {'the very same, bit for bit' if same else 'NOT the same'}; half-written: {half or 'nothing'}")
    if told.keep is None:
        shutil.rmtree(folder)
    sys.exit(0 if same and not half else 1)


if __name__ == "__main__":
    main()
