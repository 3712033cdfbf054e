"""Kills a run again and again, runs the same command again, and compares what comes out with an undisturbed run's.

    python benchmarks/chaos.py                        # 50 kills at random moments; `make chaos`
    python benchmarks/chaos.py --kills 2 --every 300 --set stages.domain.max_steps=…    # the share of time that counts
    python benchmarks/chaos.py --kills 6 --mlflow ENV/bin/mlflow    # and the server that the run is told to

What is killed with SIGKILL, in turn: a worker, the Ray Train controller, the driver, the raylet, with `--mlflow` also
MLflow's server, which comes back; and SIGTERM to the driver. A killed worker is replaced by the run itself; after all
else the command is given again, as a user would. At the end every artifact's digest has to be that of the undisturbed
run, and nothing half-written may be left; the server has to have been told every loss, once.
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

from mlflow_server import Server

HERE = Path(__file__).parent
FETTLE = [sys.executable, "-c", "from fettle.cli.main import main; main()"]
TARGETS = ("worker", "controller", "driver", "raylet", "notice")
_NAMES = {"worker": "ray::RayTrainWorker", "controller": "ray::TrainController", "raylet": "raylet"}


@dataclass
class Disturbed:
    """What a run went through. lost: of each kill, the seconds until training was as far as it had been."""

    seconds: float = 0.0
    starts: int = 0
    rounds: int = 0
    kills: Counter[str] = field(default_factory=Counter)
    lost: list[float] = field(default_factory=list)
    steps_again: list[int] = field(default_factory=list)
    server: Server | None = None

    @property
    def target(self) -> str:
        """What comes next."""
        targets = (*TARGETS, "server") if self.server is not None else TARGETS
        return targets[self.number % len(targets)]

    @property
    def number(self) -> int:
        """Of all kills."""
        return sum(self.kills.values())


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
    recipe: Path, out: Path, sets: list[str], told: Disturbed, kills: int, drawn: random.Random, every_s: float | None
) -> None:
    """Runs it to its end, and on the way kills something until that was done `kills` times: every so many seconds, or
    at random moments."""
    began = time.monotonic()
    process = start(recipe, out, sets)
    told.starts += 1
    while process.poll() != 0:
        if process.poll() is not None:
            if process.returncode not in (1, 130, -signal.SIGKILL, -signal.SIGABRT, -signal.SIGTERM):
                raise SystemExit(f"it ended with {process.returncode}: {out.with_suffix('.log').read_text()[-2000:]}")
            process, told.starts = start(recipe, out, sets), told.starts + 1
            if told.starts > 3 * kills + 9:
                raise SystemExit(f"it does not come to an end: {out.with_suffix('.log').read_text()[-2000:]}")
        if told.number >= kills:
            wait_for_end(process)
            continue
        target = told.target
        moment = every_s or drawn.uniform(0, 40)
        # Not before it trains every other time: a run that is always killed while it starts would never get anywhere.
        if every_s is None and drawn.random() < 0.5:
            wait_for_training(process, out)
            moment = drawn.uniform(0, 6)
        if wait_for_end(process, moment):
            continue
        before = rows(out)
        if kill(process, target, told.server):
            told.kills[target] += 1
            at = time.monotonic()
            process = recovered(process, recipe, out, sets, told)
            while process.poll() is None and not is_beyond(rows(out), before):
                time.sleep(0.1)
            told.lost.append(time.monotonic() - at)
            told.steps_again.append(repeated(rows(out), before))
            print(f"{told.number}: {target}, {told.lost[-1]:.0f} s, {told.steps_again[-1]} steps again", flush=True)
    told.seconds += time.monotonic() - began
    told.rounds += 1


def recovered(
    process: subprocess.Popen[bytes], recipe: Path, out: Path, sets: list[str], told: Disturbed
) -> subprocess.Popen[bytes]:
    """The run that goes on after a kill: the same, where it lives on, else the command given again."""
    if wait_for_end(process, 5.0) and process.returncode != 0:
        told.starts += 1
        return start(recipe, out, sets)
    return process


def kill(process: subprocess.Popen[bytes], target: str, server: Server | None) -> bool:
    """Whether there was anything of that sort to be killed."""
    if target == "server" and server is not None:
        server.kill()
        wait_for_end(process, 20.0)  # long enough for the run to miss it
        server.start()
        return True
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


def is_beyond(now: dict[str, list[int]], before: dict[str, list[int]]) -> bool:
    """Whether any stage has made a step that had not been made."""
    return any(max(steps, default=0) > max(before.get(name, [0]), default=0) for name, steps in now.items())


def repeated(now: dict[str, list[int]], before: dict[str, list[int]]) -> int:
    """Steps that had been made and were made once more, in the stage that was under way."""
    again = [sum(step <= max(made) for step in now[name][len(made) :]) for name, made in before.items() if made]
    return max(again, default=0)


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
    parser.add_argument("--mlflow", metavar="COMMAND", help="of an environment that has MLflow's server")
    told = parser.parse_args()
    folder = told.keep or Path(tempfile.mkdtemp(prefix="fettle-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    server = Server(told.mlflow, folder / "mlflow") if told.mlflow else None
    if server is not None:
        server.start()
        told.sets.append(f"tracking={server.uri}")
    usual = undisturbed(told.recipe, folder / "undisturbed", told.sets)
    print(f"undisturbed: {usual:.0f} s")
    wanted, drawn, found = digests(folder / "undisturbed"), random.Random(told.seed), Disturbed(server=server)
    others, half, untold = 0, list[str](), 0
    while found.number < told.kills:  # a run that came to its end is begun anew elsewhere
        out = folder / f"disturbed-{found.rounds + 1}"
        disturbed(told.recipe, out, told.sets, found, told.kills, drawn, told.every)
        others += digests(out) != wanted
        half += left_over(out)
        if server is not None:
            subprocess.run(
                [*FETTLE, "runs", "--sync", "--in", str(folder), "--tracker", server.uri],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            untold += server.losses(out) != server.losses(folder / "undisturbed")
    kills, lost = ", ".join(f"{name} {count}" for name, count in sorted(found.kills.items())), sorted(found.lost)
    print(f"killed {found.number} times ({kills}) in {found.rounds} runs; the command was given {found.starts} times")
    print(f"after a kill further than before within {lost[len(lost) // 2]:.0f} s (median), {lost[-1]:.0f} s at most;")
    print(f"at most {max(found.steps_again)} steps were made again")
    share, here = 1 - sum(lost) / len(lost) / 300, usual * found.rounds / found.seconds
    print(f"share of the time that counts: here {here:.2f}; at one kill every 5 minutes {share:.2f}")
    same = "the very same, bit for bit" if not others else f"NOT the same in {others} runs"
    print(f"artifacts: {same}; half-written: {half or 'nothing'}")
    if server is not None:
        server.kill()
        count = len(server.losses(folder / "undisturbed"))
        print(f"MLflow was told: {f'each of {count} losses, once' if not untold else f'NOT the same of {untold} runs'}")
    if told.keep is None:
        shutil.rmtree(folder)
    sys.exit(1 if others or half or untold else 0)


if __name__ == "__main__":
    main()
