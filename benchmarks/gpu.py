"""Training on one GPU of 80 GB or more, against what its matrix products reach, and beside TRL: ten minutes.

    python benchmarks/gpu.py [--cases 1B-full 1B-full-zero2 7B-lora 8B-qlora] [--steps 8] [--shape NAME]

Random weights in the shapes of Llama 3.2 1B, Llama 2 7B and Llama 3.1 8B; bf16; packed rows of 4,096 tokens, 16,384 a
step. MFU counts 6 floating-point operations a weight and token where all weights train and 4 where an adapter does, as
if nothing were computed twice, by the largest rate that bfloat16 products reach here in this run. A case whose library
is missing (deepspeed, bitsandbytes, trl) says so. `--shape tiny` tries every case in small, on a CPU too.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu_case import CASES, SHAPES, make_base, weights_of
from house_format import ROOT, row, write_results

GOAL = 0.6
SIDES = ("fettle", "trl")
_LIMIT_S = 150


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--shape", choices=list(SHAPES), help="in place of each case's own")
    told = parser.parse_args()
    if not torch.cuda.is_available() and told.shape != "tiny":
        sys.exit("there is no GPU here: --shape tiny tries it on a CPU")
    ceiling = products()
    print(f"matrix products in bfloat16: {ceiling / 1e12:,.1f} TFLOP/s", flush=True)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in told.cases:
            shape = told.shape or CASES[case].shape
            base = Path(folder) / shape
            if not base.is_dir():
                make_base(shape, base)
            rows += measured(case, shape, base, told.steps, ceiling)
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    write_results("gpu", rows, name, told.shape or "")


def products(size: int = 8192, seconds: float = 2.0) -> float:
    """The most floating-point operations a second that large products in bfloat16 reach, of 5 runs."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    size = size if device == "cuda" else 1024
    one, other = (torch.randn(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    best = 0.0
    for _ in range(5):
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < seconds / 5:
            for _ in range(10):
                one @ other
            if device == "cuda":
                torch.cuda.synchronize()
            count += 10
        best = max(best, 2 * size**3 * count / (time.perf_counter() - began))
    return best


def measured(case: str, shape: str, base: Path, steps: int, ceiling: float) -> list[dict[str, Any]]:
    """A line and rows of one case, of each side that runs."""
    found: dict[str, dict[str, float]] = {}
    for side in SIDES:
        command = [sys.executable, str(ROOT / "benchmarks" / "gpu_side.py"), side, case, shape, str(base), str(steps)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, env=_environment())
        except subprocess.TimeoutExpired:
            print(f"{case:14} {side:7} not within {_LIMIT_S} s", flush=True)
            continue
        if done.returncode:
            reason = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()[-1][:200]
            print(f"{case:14} {side:7} did not run: {reason}", flush=True)
            continue
        found[side] = json.loads(done.stdout.splitlines()[-1])
        flop = (6 if CASES[case].trains_all else 4) * weights_of(base) * found[side]["speed"]
        found[side]["mfu"] = flop / ceiling
        print(
            f"{case:14} {side:7} {found[side]['speed']:9,.0f} tokens/s  MFU {100 * found[side]['mfu']:5.1f} %"
            f"  peak {found[side]['peak']:6.1f} GiB",
            flush=True,
        )
    if "fettle" not in found:
        return []
    ours = found["fettle"]
    rows = [row(f"{case}: MFU", "of the products' rate", ours["mfu"], "goal", GOAL, ours["mfu"] / GOAL, limit=True)]
    if (its := found.get("trl")) is not None:
        speed = ours["speed"] / its["speed"]
        rows.append(row(f"{case}: tokens", "a second", ours["speed"], "TRL", its["speed"], speed, limit=False))
        memory = its["peak"] / ours["peak"] if ours["peak"] else 1.0
        rows.append(row(f"{case}: peak memory", "GiB", ours["peak"], "TRL", its["peak"], memory, limit=False))
    return rows


def _environment() -> dict[str, str]:
    more = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", "HF_HUB_OFFLINE": "1"}
    if not torch.cuda.is_available():
        more |= {"DS_ACCELERATOR": "cpu"}
    return os.environ | more


if __name__ == "__main__":
    main()
