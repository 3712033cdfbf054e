"""Sweeps against what one does without them: runs one after the other, and the whole grid.

    python benchmarks/sweeps.py trials    # 8 settings of an adapter: one sweep, and 8 runs one after the other
    python benchmarks/sweeps.py asha      # 12 settings: ASHA, and the grid that trains each to its end

Real data and a real base of six million weights where ../shared is, else Northline's and the bundled model. Whole
commands are timed, as a user types them. A trial of ASHA that reaches its end is the very trial of the grid.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from house_format import row, write_results

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"
FETTLE = [sys.executable, "-c", "from fettle.cli.main import main; main()"]
RATES = (1e-4, 5e-4, 2e-3, 8e-3)
MORE_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
RANKS = (4, 32)


def recipe(folder: Path, steps: int, **sweep: Any) -> Path:
    """A recipe of one adapter over a shared base."""
    is_there = SHARED.is_dir()
    data = SHARED / "data/sft/t0_prompt_completion.jsonl" if is_there else ROOT / "recipes/northline/chat.jsonl"
    stage = {"name": "answer", "kind": "sft", "data": str(data), "heldout": {"fraction": 0.1, "max": 100}}
    stage |= {"max_length": 128, "max_steps": steps, "batch": {"sequences": 16}}
    base = str(SHARED / "models/base-8m") if is_there else "tiny"
    told: dict[str, Any] = {"name": "bench", "base": base, "adapter": {"kind": "lora"}, "tracking": "off"}
    file = folder / f"{sweep.get('search', 'run')}.yaml"
    file.write_text(yaml.safe_dump(told | {"stages": [stage]} | ({"sweep": sweep} if sweep else {}), sort_keys=False))
    return file


def timed(*words: str | Path) -> float:
    """Seconds of a whole command."""
    began = time.monotonic()
    done = subprocess.run([*FETTLE, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    return time.monotonic() - began


def space(rates: tuple[float, ...]) -> dict[str, Any]:
    return {"stages.answer.lr": {"choice": list(rates)}, "adapter.r": {"choice": list(RANKS)}}


def results(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    return told


def trials(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Eight settings, swept and run."""
    swept = timed("sweep", recipe(folder, steps, search="grid", space=space(RATES)), "--out", folder / "sweep")
    print(f"a sweep of 8 trials: {swept:.0f} s", flush=True)
    found = {
        (one["settings"]["stages.answer.lr"], one["settings"]["adapter.r"]): one["score"]
        for one in results(folder / "sweep")["rows"]
    }
    apart, plain = 0.0, recipe(folder, steps)
    for rate in RATES:
        for rank in RANKS:
            out = folder / f"run-{rate}-{rank}"
            words = ("--set", f"stages.answer.lr={rate}", "--set", f"adapter.r={rank}")
            apart += timed("run", plain, "--out", out, *words)
            report = json.loads((out / "report.json").read_text(encoding="utf-8"))
            same = report["stages"][0]["loss"]["heldout_after"] == found[rate, rank]
            print(f"lr {rate:g}, r {rank}: runs so far {apart:.0f} s; the very loss of its trial: {same}", flush=True)
    print(f"8 runs one after the other: {apart:.0f} s, {apart / swept:.1f} times the sweep")
    what = f"8 LoRA trials of {steps} steps over one base, whole command, 2 cores"
    return [row(what, "s", swept, "8 runs one after the other", apart, apart / swept, limit=False)]


def asha(folder: Path, steps: int) -> list[dict[str, Any]]:
    """Twelve settings, by ASHA and by the grid."""
    told = {}
    for search, more in (("asha", {"trials": 12}), ("grid", {})):
        out = folder / search
        seconds = timed("sweep", recipe(folder, steps, search=search, space=space(MORE_RATES), **more), "--out", out)
        told[search] = results(out) | {"wall": seconds}
        best = told[search]["best"]
        print(
            f"{search}: {told[search]['steps']} steps, {seconds:.0f} s, best {best['score']:.4f} {best['settings']}",
            flush=True,
        )
    one, other = told["asha"], told["grid"]
    pairs = [
        ("optimizer steps of 12 trials", "steps", one["steps"], other["steps"]),
        ("held-out loss of the best of 12", "nats a token", one["best"]["score"], other["best"]["score"]),
        ("12 trials, whole command, 2 cores", "s", one["wall"], other["wall"]),
    ]
    return [row(what, unit, ours, "the grid", its, its / ours, limit=False) for what, unit, ours, its in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("trials", "asha"))
    parser.add_argument("--steps", type=int, default=45)
    told = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fettle-sweeps-"))
    try:
        rows = {"trials": trials, "asha": asha}[told.part](folder, told.steps)
        write_results("sweeps", rows, "2 cores, other work beside it", told.part)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
