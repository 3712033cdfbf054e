"""The memory that `fettle plan` tells of a worker against what it holds: real stages, random weights, CPU.

    python benchmarks/memory_plan.py [NAME …] [--held-out] [--seed 0]

Each configuration (benchmarks/memory_cases.py) is trained by the stage code of a run, in one fresh process a worker;
two workers speak gloo. The measured peak is the one of the worker that held the most. --held-out: other families, sizes
and batches, by which nothing was calibrated. Takes a minute a configuration on two idle cores, at most 6 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import CONFIG_MAPPING

from fettle.needs.memory import Setup, moments, peak
from fettle.needs.shape import shape_of
from fettle.needs.trace import Micro, config_text
from fettle.recipe.adapter import AdapterSpec
from fettle.train.group import worker_env
from house_format import row, write_results
from memory_cases import CASES, HELD_OUT, LENGTH, MODELS, Case, cluster_of, make

WORST, MEAN = 0.10, 0.04
_HELDOUT = 2


def planned(case: Case) -> tuple[float, str]:
    """(MiB of a worker at its peak, which moment that is)."""
    import torch

    keys = dict(MODELS[case.model])
    config = CONFIG_MAPPING[keys.pop("model_type")](**keys)
    config.dtype = getattr(torch, case.stored)
    rows = case.sequences // case.workers // case.accumulate
    micro = Micro(rows, LENGTH, case.precision, case.checkpointing)  # type: ignore[arg-type]
    setup = Setup(
        AdapterSpec.model_validate(case.adapter),
        cluster_of(case),
        case.precision,  # type: ignore[arg-type]
        micro,
        Micro(max(1, _HELDOUT // case.workers), LENGTH, case.precision),  # type: ignore[arg-type]
        accumulate=case.accumulate,
    )
    found = peak(moments(shape_of(config_text(config)), setup))
    return found.total / 2**20, found.name


def measured(name: str, case: Case, seed: int) -> float:
    """MiB of the worker that held the most."""
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": f"{root / 'platform'}:{root / 'benchmarks'}"}
    environment |= worker_env(cluster_of(case))
    with tempfile.TemporaryDirectory() as folder:
        make(case, Path(folder), seed)
        command = [sys.executable, str(root / "benchmarks" / "memory_cases.py"), name]
        running = [
            subprocess.Popen(
                [*command, str(rank), folder],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for rank in range(case.workers)
        ]
        outputs = [process.communicate()[0] for process in running]
        if any(process.returncode for process in running):
            raise SystemExit(f"{name}: a worker failed; run memory_cases.py by hand")
    return max(float(json.loads(output.splitlines()[-1])["peak"]) for output in outputs)


def main() -> None:
    """Measures, prints a line a configuration, and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="of CASES; all by default")
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    told = parser.parse_args()
    known = HELD_OUT if told.held_out else CASES
    rows, off = [], []
    for name in told.names or known:
        case = (CASES | HELD_OUT)[name]
        plan, moment = planned(case)
        found = measured(name, case, told.seed)
        off.append(abs(plan / found - 1))
        print(f"{name:44} planned {plan:6.0f} MiB  measured {found:6.0f}  {plan / found:.3f}  ({moment})", flush=True)
        rows.append(row(name, "MiB a worker", plan, "measured peak", found, plan / found, limit=False))
    worst, mean = max(off), sum(off) / len(off)
    print(f"off by {worst:.1%} at worst, {mean:.1%} in the mean, of {len(off)}")
    rows.append(row("worst difference", "share", worst, "bound", WORST, WORST / max(worst, 1e-6), limit=True))
    rows.append(row("mean difference", "share", mean, "bound", MEAN, MEAN / max(mean, 1e-6), limit=True))
    write_results("memory_plan", rows, "1 thread a worker", "held-out" if told.held_out else "")


if __name__ == "__main__":
    main()
