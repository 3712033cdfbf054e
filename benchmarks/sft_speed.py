"""fettle's sft stage against a bare packed loop: the same model, micro-batches, precision and thread, in one process.

    python benchmarks/sft_speed.py [--base tiny] [--data recipes/northline/tasks.jsonl] [--precision bf16] [--rounds 3]

The bare loop is what one would write by hand: forward with exact packing, cross-entropy, backward, clip, AdamW. fettle
adds TRL's trainer, the global token count, the schedule, the progress file and the held-out loss (not counted). Rounds
alternate; the speed of a round is the median of its steps, so a busy moment of the machine falls out.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import torch

from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.tokens import write_tokens
from fettle.models.base import load_tokenizer, load_weights, resolve_base
from fettle.pipeline.prepare import end_ids
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.kinds import SftStage
from fettle.recipe.stages import BatchSpec
from fettle.train.causal import CausalTask
from fettle.train.checkpoint import Fence
from fettle.train.curriculum import StepsUnderway, curriculum
from fettle.train.job import GroupMember, StageJob
from fettle.train.progress import curve
from fettle.train.stages.sft import sft
from fettle.train.trainer import MicroBatches
from house_format import ROOT, row, write_results


def main() -> None:
    options = _options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        job = _job(options, Path(folder))
        speeds: dict[str, list[float]] = {"bare": [], "fettle": []}
        for number in range(options.rounds):
            speeds["bare"].append(_bare(job))
            speeds["fettle"].append(_fettle(job, Path(folder) / f"round-{number}"))
            print(f"round {number + 1}: bare {speeds['bare'][-1]:,.0f}, fettle {speeds['fettle'][-1]:,.0f} tokens/s")
    bare, ours = (statistics.median(speeds[name]) for name in ("bare", "fettle"))
    print(f"fettle / bare = {ours / bare:.2f} ({options.precision}, {options.base}, {Path(options.data).name})")
    _write(options, ours, bare)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="tiny")
    parser.add_argument("--data", default=str(ROOT / "recipes" / "northline" / "tasks.jsonl"))
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--tokens", type=int, default=4096, help="a step")
    parser.add_argument("--max-length", type=int, default=512)
    return parser.parse_args()


def _job(options: argparse.Namespace, folder: Path) -> StageJob:
    base = resolve_base(options.base)
    tokenizer = load_tokenizer(base)
    examples = encode(read_file(Path(options.data))[1], tokenizer, max_length=options.max_length)
    write_tokens(folder / "tokens", examples)
    spec = SftStage(
        name="bench",
        kind="sft",
        data=options.data,
        max_steps=options.steps,
        batch=BatchSpec(tokens=options.tokens),
        lr=1e-4,
        checkpoint={"every": 10**6},
    )
    return StageJob(
        name="bench",
        fingerprint="bench",
        spec=spec,
        adapter="full",
        seed=0,
        base=base,
        from_adapter=None,
        tokens=((folder / "tokens",),),
        streams=(),
        weights=(1.0,),
        heldout=(),
        max_length=options.max_length,
        precision=options.precision,
        folder=folder / "stage",
        artifact=folder / "artifact",
        recipe="",
        data=(),
        end_ids=end_ids(tokenizer),
        pad_id=0,
    )


def _bare(job: StageJob) -> float:
    """Tokens per second of the hand-written loop."""
    steps = list(StepsUnderway(curriculum(job)))
    rows = CausalTask(max_length=job.max_length, packing=True, pad_id=0).collate
    batches = MicroBatches(steps, 0, 1, 1, rows)
    model = load_weights(job.base, torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.spec.lr, betas=(0.9, 0.95), weight_decay=0.0)
    speeds = []
    for examples, batch in zip(steps, batches, strict=True):
        began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=job.precision == "bf16"):
            logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=-100
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        speeds.append(sum(len(e.input_ids) for e in examples) / (time.perf_counter() - began))
    return statistics.median(speeds[2:])


def _fettle(job: StageJob, folder: Path) -> float:
    """Tokens per second of the stage as a run trains it."""
    folder.mkdir()
    (folder / "epoch").write_text("bench")
    placed = StageJob(**{**vars(job), "folder": folder / "stage", "artifact": folder / "artifact"})
    sft(placed, GroupMember(0, 1, ClusterSpec(workers=1, zero=0), Fence(folder / "epoch", "bench")))
    rows = curve(placed.progress)
    pairs = list(itertools.pairwise(rows))[1:]
    return statistics.median(row.tokens / (row.seconds - before.seconds) for before, row in pairs)


def _write(options: argparse.Namespace, ours: float, bare: float) -> None:
    what = f"sft, {options.precision}, one worker, {Path(options.data).name} on {Path(options.base).name}"
    told = row(what, "tokens/s", round(ours), "bare packed torch loop", round(bare), ours / bare, limit=True)
    write_results("sft_speed", [told], f"1 thread, torch {torch.__version__}", options.precision)


if __name__ == "__main__":
    main()
