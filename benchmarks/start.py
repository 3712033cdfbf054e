"""What fettle itself takes: from a command to its first step, between stages, and of a step's time.

    python benchmarks/start.py demo       # the demo's five stages and its endpoint: where its minutes go
    python benchmarks/start.py imports    # what driver, worker and engine import before they are of use
    python benchmarks/start.py steps      # a step in a Ray Train worker, with and without DeepSpeed, and in a bare loop

demo and steps are whole commands, as a user types them; imports are seconds of one process, by Python's own account.
"""

from __future__ import annotations

import argparse
import itertools
import json
import operator
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from house_format import ROOT, row, write_results

FETTLE = [sys.executable, "-u", "-c", "from fettle.cli.main import main; main()"]
SHARED = ROOT.parent / "shared"
IMPORTS = {
    "driver of a run": "import fettle.pipeline.runner",
    "worker of a stage": "import fettle.train.worker, fettle.train.stage; from fettle.train.zero import load_deepspeed;"
    " load_deepspeed(); from transformers import AutoModelForCausalLM, AutoTokenizer; AutoTokenizer.from_pretrained",
    "engine": "import fettle.engine.vllm",
}
LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "bitsandbytes",
    "deepspeed",
    "ray",
    "vllm",
    "fettle",
    "datasets",
    "pandas",
)
GROUPS = ((1, 0), (1, 2), (2, 0), (2, 2))
STEPS, WARM_UP, TURNS = 12, 3, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("demo", "imports", "steps"))
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = {"demo": demo, "imports": imports, "steps": steps}[told.part](Path(folder))
    write_results("start", rows, "2 cores", told.part)


def demo(folder: Path) -> list[dict[str, Any]]:
    """When each line of the demo appeared, and of each stage its first and its last step."""
    began, lines = time.time(), list[tuple[float, str]]()
    process = subprocess.Popen([*FETTLE, "demo", "--out", str(folder / "demo")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        lines.append((time.time() - began, line))
    if process.wait():
        sys.exit("".join(line for _, line in lines))
    ended = time.time() - began
    rows, before = [], 0.0
    for number in ("1  Train", "starting", "2  Serve", "answers as", "all of it took"):
        at = next(seconds for seconds, line in lines if number in line)
        rows.append(_seconds(f"demo: until '{number.strip()}'", at, "the demo", ended))
    report = json.loads((folder / "demo" / "report.json").read_text())
    for stage in report["stages"]:
        for file in (folder / "demo" / "stages").glob(f"{stage['name']}-*/progress.jsonl"):
            steps = [json.loads(line) for line in file.read_text().splitlines()]
            first, last = steps[0]["time"] - began, steps[-1]["time"] - began
            rows.append(
                _seconds(f"demo: {stage['name']}: until its first step has ended", first - before, "the demo", ended)
            )
            rows.append(_seconds(f"demo: {stage['name']}: the steps after it", last - first, "the demo", ended))
            before = last
    for one in rows:
        print(f"{one['what']:<55} {one['fettle']:6.1f} s")
    return [*rows, _seconds("demo: the whole command", ended, "five minutes", 300.0)]


def imports(folder: Path) -> list[dict[str, Any]]:
    """Seconds of each kind of process, and of the libraries in them: what a library imports itself counts as its."""
    rows = []
    for what, program in IMPORTS.items():
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", program],
            env=os.environ | {"DS_ACCELERATOR": "cpu", "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        own: dict[str, float] = dict.fromkeys(LIBRARIES, 0.0)
        total = 0.0
        for found in re.finditer(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", done.stderr):
            seconds, name = int(found[1]) / 1e6, found[2].partition(".")[0]
            total += seconds
            if name in own:
                own[name] += seconds
        print(
            f"{what:<20} {total:5.1f} s: "
            + ", ".join(f"{name} {took:.1f}" for name, took in own.items() if took > 0.05)
        )
        rows.append(_seconds(f"imports of the {what}", total, "torch alone", own["torch"]))
    return rows


def steps(folder: Path) -> list[dict[str, Any]]:
    """Useful tokens a second of groups of workers, of one thread each, against the bare loop of `sft_sides.py`."""
    from sft import write_case
    from sft_case import SEQUENCES, Case

    is_there = SHARED.is_dir()
    data = SHARED / "data/sft/alpaca_en_demo.json" if is_there else ROOT / "recipes/northline/tasks.jsonl"
    base = str(SHARED / "models/base-8m") if is_there else str(ROOT / "platform/fettle/assets/tiny")
    write_case(data, base, folder, STEPS)
    micro_batches = Case(folder, base, "fp32", "full").accumulate
    found: dict[tuple[int, int], list[float]] = {group: [] for group in GROUPS}
    alone, beside, shares = [], [], list[tuple[float, float]]()
    for turn in range(TURNS):  # in turns: the machine's own speed drifts by a tenth and more
        alone += _bare(folder, base, 1)
        beside.append(sum(_bare(folder, base, 2)))
        for workers, zero in GROUPS:
            batch = {"sequences": SEQUENCES, "accumulate": max(1, micro_batches // workers)}
            stage = {"name": "steps", "kind": "sft", "data": str(data), "max_length": 512, "max_steps": STEPS}
            cluster = {"workers": workers, "zero": zero, "precision": "fp32", "cpus_per_worker": 1}
            recipe = {"name": "steps", "base": base, "cluster": cluster, "tracking": "off", "adapter": "full"}
            file = folder / f"{turn}-{workers}-{zero}.yaml"
            file.write_text(yaml.safe_dump(recipe | {"stages": [stage | {"lr": 5e-4, "batch": batch}]}))
            speed, share = _run(file, folder / file.stem)
            found[workers, zero].append(speed)
            shares += [share] if (workers, zero) == (2, 0) else []
        print(f"turn {turn + 1} of {TURNS}: {[round(speeds[-1]) for speeds in found.values()]}", flush=True)
    bare, most = statistics.median(alone), statistics.median(map(operator.truediv, beside, alone))
    print(f"bare loop, one core: {bare:,.0f} tokens/s; two beside each other, which share nothing: {most:.2f} times it")
    told = {group: statistics.median(speeds) for group, speeds in found.items()}
    for (workers, zero), speed in told.items():
        print(f"{workers} worker(s), ZeRO {zero}: {speed:,.0f} tokens/s, {speed / bare:.2f} of the bare loop")
    rows = [
        row(
            f"a step, {workers} worker{'s' * (workers > 1)}, ZeRO {zero}",
            "tokens/s",
            speed,
            "bare loop",
            bare,
            speed / bare,
            limit=True,
        )
        for (workers, zero), speed in told.items()
    ]
    ratio = statistics.median(map(operator.truediv, found[2, 0], found[1, 0]))
    print(f"two workers are {ratio:.2f} times one")
    workers_share, ray_share = (statistics.median(one) for one in zip(*shares, strict=True))
    print(f"of two cores {workers_share:.1f} % are two workers', {ray_share:.1f} % Ray's and the driver's")
    peer, both = "two bare loops beside each other, in loops alone", "two cores"
    rows += [
        row("two workers, ZeRO 0: processor time", "%", workers_share, both, 100.0, workers_share / 100, limit=True),
        row("two workers, ZeRO 0: that of Ray and driver", "%", ray_share, both, 100.0, ray_share / 100, limit=True),
    ]
    return [
        *rows,
        row("two workers, ZeRO 0", "tokens/s", told[2, 0], "one worker", told[1, 0], ratio, limit=False),
        row("two workers, ZeRO 0, in workers alone", "times", ratio, peer, most, ratio / most, limit=True),
    ]


def _run(recipe: Path, out: Path) -> tuple[float, tuple[float, float]]:
    """Tokens a second of a run's one stage; of the machine's processor time in its steps, the workers' share and that
    of all else it has started, in percent."""
    with open(f"{out}.txt", "w") as told:
        run = subprocess.Popen([*FETTLE, "run", str(recipe), "--out", str(out)], stdout=told, stderr=told)
        taken: list[tuple[float, float, float]] = []
        while run.poll() is None:
            steps = sum(len(file.read_text().splitlines()) for file in out.glob("stages/*/progress.jsonl"))
            if (WARM_UP < steps < STEPS - 1 and not taken) or (steps == STEPS - 1 and len(taken) == 1):
                taken.append(_taken(run.pid))
            time.sleep(0.2)
        if run.returncode:
            sys.exit(Path(told.name).read_text())
    (at, workers, others), (until, workers_then, others_then) = taken
    whole = (until - at) * (os.cpu_count() or 1) / 100
    (progress,) = (out / "stages").glob("*/progress.jsonl")
    speed = _speed([json.loads(line) for line in progress.read_text().splitlines()])
    return speed, ((workers_then - workers) / whole, (others_then - others) / whole)


def _taken(pid: int) -> tuple[float, float, float]:
    """Now, and the seconds of processor time that a run's workers have taken, and its other processes."""
    workers, others, driver = 0.0, 0.0, psutil.Process(pid)
    for process in (driver, *driver.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            spent = process.cpu_times()
            if process.name().startswith("ray::RayTrainW"):
                workers += spent.user + spent.system
            else:
                others += spent.user + spent.system
    return time.time(), workers, others


def _bare(folder: Path, base: str, count: int) -> list[float]:
    """Tokens a second of so many bare loops at a time, on a core each."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    program = [sys.executable, str(ROOT / "benchmarks/sft_sides.py"), "bare", str(folder), base, "fp32", "full"]
    started = [
        subprocess.Popen(["taskset", "-c", str(core), *program], env=environment, stdout=subprocess.PIPE, text=True)
        for core in range(count)
    ]
    return [json.loads(one.communicate()[0].splitlines()[-1])["speed"] for one in started]


def _speed(steps: list[dict[str, Any]]) -> float:
    """Tokens a second, of the median step after the first ones."""
    pairs = list(itertools.pairwise(steps))[WARM_UP:]
    return statistics.median(after["tokens"] / (after["seconds"] - before["seconds"]) for before, after in pairs)


def _seconds(what: str, ours: float, peer: str, its: float) -> dict[str, Any]:
    return row(what, "s", round(ours, 2), peer, round(its, 2), its / max(ours, 1e-3), limit=True)


if __name__ == "__main__":
    main()
