"""What checkpoints cost: the same steps with one every so many, and with none.

    python benchmarks/checkpoints.py [--every 10] [--steps 60] [--model ../shared/models/base-8m]

One worker in this process, without Ray; full training, whose checkpoints are three times the weights in float32. Both
kinds of run by turns, several times, so that a noisy machine is noisy for both.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from statistics import median

import numpy as np

import one_stage
from fettle.data.tokens import TokenExample, write_tokens
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.kinds import PretrainStage
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember, StageJob
from fettle.train.progress import curve
from fettle.train.stages.pretrain import pretrain
from fettle.train.worker import run_member
from house_format import row, write_results

LENGTH = 256


def job_of(folder: Path, base: Path, steps: int, every: int) -> StageJob:
    """A stage of full training on made-up tokens."""
    spec = PretrainStage(
        name="cost",
        kind="pretrain",
        data="none.txt",
        max_steps=steps,
        batch={"sequences": 4},
        max_length=LENGTH,
        checkpoint={"every": every},
        heldout={"fraction": 0.02, "max": 1},
    )
    return one_stage.job_of(spec, folder, folder.parent / "tokens", base, max_length=LENGTH)


def seconds_a_step(folder: Path, base: Path, steps: int, every: int) -> float:
    """Of a run in a new folder, over all its steps but the first few."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / ".epoch").write_text("cost")
    job = job_of(folder, base, steps, every)
    run_member([(job, pretrain)], GroupMember(0, 1, ClusterSpec(), Fence(folder / ".epoch", "cost")), None)
    rows = curve(job.progress)
    return (rows[-1].seconds - rows[4].seconds) / (len(rows) - 5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[2] / "shared" / "models" / "base-8m")
    told = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fettle-checkpoints-"))
    try:
        ids = np.arange(4, LENGTH + 4, dtype=np.int32)
        examples = [TokenExample(ids + number, np.ones(LENGTH, dtype=bool)) for number in range(64)]
        write_tokens(folder / "tokens", examples)
        ratios = []
        for _ in range(told.times):
            without = seconds_a_step(folder / "run", told.model, told.steps, 10 * told.steps)
            saving = seconds_a_step(folder / "run", told.model, told.steps, told.every)
            ratios.append(saving / without)
            pair = f"{without * 1000:.0f} ms a step, {saving * 1000:.0f} with a checkpoint every {told.every}"
            print(pair, flush=True)
        overhead = median(ratios) - 1
        print(f"overhead: {overhead:.1%} of the step time (median of {told.times} pairs)")
        what = f"overhead of a checkpoint every {told.every} steps ({told.model.name}, full training)"
        found = row(what, "share of step time", overhead, "bound", 0.05, 0.05 / max(overhead, 1e-4), limit=True)
        write_results("checkpoints", [found], "one process")
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
