"""fettle's sft stage beside TRL, LLaMA-Factory and a bare loop: useful tokens a second at equal loss, and peak memory.

    python benchmarks/sft.py [--data FILE] [--precision fp32 bf16] [--adapter full lora] [--rounds 3] [--cores 0 1]

A side is a process of one thread on one core; each precision and kind of training has a core for itself meanwhile, on
which its sides take turns; medians. All learn from the same tokens of the same records once, 32 a step, with the same
optimizer and rate, in micro-batches of about as many tokens, and are judged by the same held-out answers
(`sft_case.py`, `sft_sides.py`, `sft_llamafactory.py`). The padded sides, at half the speed and less, run in the first
round alone. LLaMA-Factory is installed from its package, once, into `~/.cache/fettle/bench/llamafactory`;
`--no-llamafactory` leaves it out.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from typing import Any

from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.models.base import load_tokenizer, resolve_base
from fettle.output import cache_folder
from fettle.recipe.cluster import ClusterSpec
from fettle.train.group import worker_env
from house_format import ROOT, row, write_results
from sft_case import MAX_LENGTH, SEQUENCES

SHARED = ROOT.parent / "shared"
LIMITS = {
    "bare": 0.95,
    "trl-packed": 1.2,
    "trl-padded": 2.4,
    "llamafactory-packed": 1.2,
    "llamafactory-padded": 2.4,
    "trl-default": None,
}
ONCE = ("trl-padded", "trl-default", "llamafactory-padded")
_HELDOUT = 50


def main() -> None:
    parser = parser_of(__doc__, steps=8, rounds=3)
    parser.add_argument("--quick", action="store_true", help="few steps: whether it works, and no measurement")
    options = parser.parse_args()
    steps, rounds = (4, 1) if options.quick else (options.steps, options.rounds)
    python = None if options.no_llamafactory else llamafactory()
    cores: Queue[int] = Queue()
    for core in options.cores:
        cores.put(core)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(len(options.cores)) as pool:
        write_case(options.data, options.base, Path(folder), steps)
        kinds = [(precision, adapter) for adapter in options.adapter for precision in options.precision]
        tables = pool.map(lambda kind: _compared(Path(folder), options.base, *kind, rounds, python, cores), kinds)
        rows = [one for table in tables for one in table]
    parts = [one for chosen in (options.adapter, options.precision) for one in chosen if len(chosen) == 1]
    variant = "-".join((options.data.stem, *parts))
    used = f"1 thread, 1 core a side, {rounds} rounds, {min(len(options.cores), len(kinds))} cores in use"
    write_results("sft", rows, used, "quick" if options.quick else variant)


def parser_of(description: str | None, *, steps: int, rounds: int) -> argparse.ArgumentParser:
    """Of what is trained, and on what."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    is_there = SHARED.is_dir()
    data = SHARED / "data/sft/alpaca_en_demo.json" if is_there else ROOT / "recipes/northline/tasks.jsonl"
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--base", default=str(SHARED / "models/base-8m") if is_there else "tiny")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--adapter", nargs="+", choices=("full", "lora"), default=["full", "lora"])
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)), help="that it may use")
    parser.add_argument("--no-llamafactory", action="store_true")
    return parser


def _compared(
    folder: Path, base: str, precision: str, adapter: str, rounds: int, python: Path | None, cores: Queue[int]
) -> list[dict[str, Any]]:
    sides = [side for side in ("fettle", *LIMITS) if python is not None or not side.startswith("llamafactory")]
    found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    core = cores.get()
    try:
        for number in range(rounds):
            for side in sides:
                if number == 0 or side not in ONCE:
                    found[side].append(measured(side, folder, base, precision, adapter, python, core))
    finally:
        cores.put(core)  # where a side fails too: the others would wait for it
    middle = {side: medians(told) for side, told in found.items()}
    ours, rows = middle["fettle"], []
    for side in sides:
        its, limit, speeds = middle[side], LIMITS.get(side), [one["speed"] for one in found[side]]
        spread = f"({min(speeds):,.0f} to {max(speeds):,.0f})"
        line = f"{precision} {adapter:5} {side:20} {its['speed']:7,.0f} tokens/s {spread:16} loss {its['loss']:.4f}"
        ratio = ours["speed"] / its["speed"]
        print(f"{line} {its['peak']:6,.0f} MiB  {ratio:.2f}" + (f", wanted {limit}" if limit else ""), flush=True)
        if side != "fettle":
            what, limited = f"sft, {adapter}, {precision}", side == "bare"
            rows += [
                row(f"{what}: useful tokens", "tokens/s", ours["speed"], side, its["speed"], ratio, limit=limited),
                _less_is_better(f"{what}: peak memory", "MiB", ours["peak"], side, its["peak"]),
                _less_is_better(f"{what}: held-out loss", "nats", ours["loss"], side, its["loss"]),
            ]
    return rows


def medians(told: list[dict[str, float]]) -> dict[str, float]:
    """Of each figure."""
    return {key: statistics.median(one[key] for one in told) for key in told[0]}


def _less_is_better(what: str, unit: str, ours: float, side: str, its: float) -> dict[str, Any]:
    return row(what, unit, ours, side, its, its / ours, limit=side == "bare")


def measured(
    side: str, folder: Path, base: str, precision: str, adapter: str, python: Path | None, core: int
) -> dict[str, float]:
    """What a side tells, in a process of its own; see `sft_case.told`."""
    script, name, interpreter = "sft_sides.py", side, sys.executable
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    if side.startswith("llamafactory"):
        script, name, interpreter = "sft_llamafactory.py", side.partition("-")[2], str(python)
    elif side == "fettle":
        environment |= worker_env(ClusterSpec())  # as a run's workers have it
    command = ["taskset", "-c", str(core), interpreter, str(ROOT / "benchmarks" / script), name, str(folder)]
    done = subprocess.run(
        [*command, str(resolve_base(base)), precision, adapter], env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{side}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"  {precision} {adapter:5} {side:20} {told['speed']:7,.0f} tokens/s", flush=True)
    return told


def write_case(data: Path, base: str, folder: Path, steps: int) -> None:
    """Tokens of the records that are learned from, and of those that judge."""
    tokenizer = load_tokenizer(resolve_base(base))
    rows = [
        {"input_ids": one.input_ids.tolist(), "completion_mask": one.loss_mask.astype(int).tolist()}
        for one in encode(read_file(data)[1], tokenizer, max_length=MAX_LENGTH)
        if one.loss_mask.any()
    ]
    wanted = steps * SEQUENCES
    if len(rows) < wanted + _HELDOUT:
        sys.exit(f"{data.name} has {len(rows)} records; {wanted + _HELDOUT} are wanted: fewer --steps")
    (folder / "heldout.json").write_text(json.dumps(rows[:_HELDOUT]))
    (folder / "train.json").write_text(json.dumps(rows[_HELDOUT : _HELDOUT + wanted]))


def llamafactory() -> Path:
    """The interpreter of its environment, which is made where it is not there."""
    folder = cache_folder("bench") / "llamafactory"
    python = folder / "bin" / "python"
    if not python.is_file():
        import torch

        print(f"installing LLaMA-Factory into {folder}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        wanted = ["llamafactory", f"torch=={torch.__version__}"]
        subprocess.run([str(python), "-m", "pip", "install", "--quiet", *wanted], check=True)
        # Their only builds are for GPUs; it imports torchaudio at start, and uses both for sound and pictures alone.
        subprocess.run(
            [str(python), "-m", "pip", "uninstall", "--quiet", "--yes", "torchaudio", "torchvision"], check=True
        )
        (next(folder.glob("lib/python3*/site-packages")) / "torchaudio.py").touch()
    return python


if __name__ == "__main__":
    main()
