"""Phase times of real runs, as the simulator replays them: how long generating, learning and the rest of each iteration
took, how long its answers were, and what a step of training took, with one worker and two.

    python benchmarks/scale_measure.py [--out DIR]     # trains `recipe()`, 8 minutes; DIR's stages are done

Writes results/phases-DATE.json. Settings of rl twice, by turns, since a machine is never quiet for long.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
import yaml

from fettle.rl.recorder import ITERATIONS, read_rows
from fettle.rl.stored import read_rollouts
from fettle.train.progress import curve
from house_format import ROOT, machine

FLOATS = 3_200_000  # of the bundled model: what two workers send each other in a step
_TURNS: dict[str, Any] = {
    "kind": "rl",
    "algorithm": "grpo",
    "prompts": str(ROOT / "recipes" / "northline" / "prompts.jsonl"),
    "heldout": {"fraction": 0.02, "max": 4},
    "rewards": [{"builtin": "length", "max_tokens": 64, "cushion": 32}],
    "rollout": {"engines": 1, "prompts": 16, "samples_per_prompt": 8, "max_new_tokens": 64},
    "batch": {"sequences": 128, "accumulate": 4},
    "max_length": 160,
    "iterations": 12,
    "checkpoint": {"every": 1000},
    "recorder": {"batches": 20},
    "lr": 1e-6,
}
_ONE: dict[str, Any] = {
    "kind": "sft",
    "data": str(ROOT / "recipes" / "northline" / "chat.jsonl"),
    "heldout": {"fraction": 0.02, "max": 4},
    "max_length": 160,
    "max_steps": 30,
    "batch": {"tokens": 4096},
    "checkpoint": {"every": 1000},
    "lr": 1e-6,
}
SETTINGS: dict[str, dict[str, Any]] = {
    # What the simulator is fitted on: one engine and the learner in turns, with half the answers too; one worker with
    # DeepSpeed and without.
    "turns": _TURNS,
    "half": _TURNS | {"rollout": _TURNS["rollout"] | {"prompts": 8}, "batch": {"sequences": 64, "accumulate": 2}},
    "one": _ONE,
    "engine": _ONE | {"cluster": {"workers": 1, "zero": 2, "precision": "fp32"}},
    # What it has to predict: the next answers are made meanwhile; two engines; two workers.
    "ahead": _TURNS | {"max_staleness": 1},
    "pair": _TURNS | {"rollout": _TURNS["rollout"] | {"engines": 2}},
    "both": _ONE | {"cluster": {"workers": 2, "zero": 2, "precision": "fp32"}},
}


def recipe() -> dict[str, Any]:
    """Its stages go on from each other, so that none runs beside another."""
    names = ["turns-a", "half-a", "ahead-a", "pair-a", "one-a", "engine-a", "both-a", "turns-b", "ahead-b", "pair-b"]
    return {
        "name": "phases",
        "base": "tiny",
        "cluster": {"workers": 1, "zero": 0, "precision": "fp32", "cpus_per_worker": 1},
        "adapter": "full",
        "stages": [{"name": name, **SETTINGS[name.rpartition("-")[0]]} for name in names],
    }


def read_run(folder: Path) -> dict[str, Any]:
    """Of each stage of a run of `recipe()`: `iterations` (seconds, phases, tokens of each answer by prompt), or `steps`
    (seconds, tokens)."""
    found = {}
    for spec in recipe()["stages"]:
        (stage,) = (folder / "stages").glob(f"{spec['name']}-*")
        found[spec["name"]] = _iterations(stage) if spec["kind"] == "rl" else _steps(stage)
    return found


def _iterations(stage: Path) -> dict[str, Any]:
    told = []
    for row in read_rows(stage / ITERATIONS):
        rollouts, made = read_rollouts(stage / "rollouts" / f"{row.iteration:08d}.npz")
        lengths: dict[int, list[int]] = {}
        for one in rollouts:
            lengths.setdefault(one.rollout.prompt, []).append(len(one.rollout.output_ids))
        seconds = row.phases | {
            "publish": row.phases["sync"] - made["seconds"]["sync"],
            "sync": made["seconds"]["sync"],
        }
        phases = {name: round(value, 4) for name, value in seconds.items()}
        of_prompts = [" ".join(map(str, lengths[at])) for at in sorted(lengths)]
        told.append({"seconds": round(row.seconds, 4), "phases": phases, "lengths": of_prompts})
    return {"iterations": told}


def _steps(stage: Path) -> dict[str, Any]:
    rows = curve(stage / "progress.jsonl")
    before = [0.0, *(row.seconds for row in rows)]
    return {
        "steps": [
            {"seconds": round(row.seconds - since, 4), "tokens": row.tokens}
            for row, since in zip(rows, before, strict=False)
        ]
    }


def collective_seconds() -> float:
    """Of a reduction and a gathering of the model's gradients and weights, over gloo between two processes."""
    with tempfile.TemporaryDirectory() as folder:
        processes.spawn(_exchange, args=(folder,), nprocs=2)
        return float((Path(folder) / "seconds").read_text())


def _exchange(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    gradients = torch.ones(FLOATS)
    mine, both = torch.ones(FLOATS // 2), torch.empty(FLOATS)
    seconds = []
    for _ in range(12):
        began = time.perf_counter()
        dist.all_reduce(gradients)
        dist.all_gather_into_tensor(both, mine)
        seconds.append(time.perf_counter() - began)
    if rank == 0:
        (Path(folder) / "seconds").write_text(str(sorted(seconds)[len(seconds) // 2]))
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="the run's folder; by default one that goes again")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fettle-phases-") as scratch:
        folder = told.out or Path(scratch) / "run"
        file = folder.with_suffix(".yaml")
        file.write_text(yaml.safe_dump(recipe(), sort_keys=False))
        fettle = [sys.executable, "-c", "from fettle.cli.main import main; main()"]
        subprocess.run([*fettle, "run", str(file), "--out", str(folder)], check=True)
        more = {"collective_s": collective_seconds(), "stages": read_run(folder)}
    write_trace({"machine": machine("2 cores, 1 thread a process"), "rows": []} | more)


def write_trace(told: dict[str, Any]) -> None:
    """A line an iteration; a line a stage of steps."""
    today = date.today().isoformat()
    file = ROOT / "benchmarks" / "results" / f"phases-{today}.json"
    lines = []
    for name, stage in told.pop("stages").items():
        key, rows = next(iter(stage.items()))
        between = ",\n   " if key == "iterations" else ", "
        lines.append(f'  "{name}": {{"{key}": [{between.join(map(json.dumps, rows))}]}}')
    head = json.dumps({"benchmark": "phases", "date": today} | told, indent=1)
    file.write_text(head.removesuffix("\n}") + ',\n "stages": {\n' + ",\n".join(lines) + "\n }\n}\n")
    print(f"written to {file.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
