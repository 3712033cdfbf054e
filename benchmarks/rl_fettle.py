"""fettle's side of a GRPO step, by the recorder's clock, in a process of its own, which prints one JSON line.

    python benchmarks/rl_fettle.py step --case small|ragged [--staleness 1] [--steps 6]
    python benchmarks/rl_fettle.py adapter [--steps 6]

step: full weights of `rl_case`'s model with its prompts, end tokens, reward, micro-batches and loss, in float32, a
thread for the learner and one for the engine. adapter: LoRA of rank 16 over the bundled model, for its sync alone. The
first two steps are a warm-up; the last ones of a stale run, beside which nothing is generated any more, do not count.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from fettle.cluster import ray_session
from fettle.data.sources import open_source
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import end_ids
from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.data import DataSpec
from fettle.recipe.rl import RlStage
from fettle.rl.job import RlJob
from fettle.rl.recorder import IterationRow, read_rows
from fettle.rl.stage import rl
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember
from house_format import ROOT, peak_mib
from rl_case import CASES, CLIP, LR, MAX_MODEL_LEN, MODEL, Case, rendered_prompts, stop_ids

WARM_UP = 2
_ACCUMULATE = {"small": 2, "ragged": 6}  # micro-batches of 4096 tokens, as the bare side's
_ADAPTER_CASE = Case(8, 8, 32)
_REWARDS = """from rl_case import reward

def first_said(prompts, completions, **columns):
    return [reward(text if isinstance(text, str) else text[0]["content"]) for text in completions]
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("step", "adapter"))
    parser.add_argument("--case", choices=tuple(CASES), default="small")
    parser.add_argument("--staleness", type=int, default=0)
    parser.add_argument("--steps", type=int, default=6, help="the warm-up included; at least 3")
    options = parser.parse_args()
    options.steps = max(WARM_UP + 1 + options.staleness, options.steps)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder, ray_session(num_cpus=2):  # as the bare side's weights
        job = (_step_job if options.what == "step" else _adapter_job)(options, Path(folder))
        (Path(folder) / "rewards.py").write_text(_REWARDS)
        (Path(folder) / "epoch").write_text("bench")
        rl(job, GroupMember(0, 1, ClusterSpec(cpus_per_worker=1), Fence(Path(folder) / "epoch", "bench")))
        rows = read_rows(job.iterations_file)
    print(json.dumps(vars(options) | summary(rows[: len(rows) - options.staleness])))


def summary(rows: Sequence[IterationRow]) -> dict[str, Any]:
    """Medians over the iterations after the warm-up. overhead: of each iteration what is neither generate nor learn."""
    told = rows[WARM_UP:]
    phases = {name: round(statistics.median(row.phases[name] for row in told), 4) for name in told[0].phases}
    return {
        "seconds": round(statistics.median(row.seconds for row in told), 3),
        **phases,
        "overhead": round(statistics.median(r.seconds - r.phases["generate"] - r.phases["learn"] for r in told), 4),
        "each": [round(row.seconds, 2) for row in told],
        "tokens_per_step": round(statistics.mean(row.tokens for row in told)),
        "gap": max(row.gap["mean"] for row in told),
        "oldest": max(row.version - row.oldest_version for row in told),
        "peak_mib": round(peak_mib()),
        "busy": round(_busy(), 2),
    }


def _busy() -> float:
    """Seconds in which the learner's thread could have run, for one in which it did: above 1 others had its core."""
    ran, waited, _ = map(int, Path("/proc/self/schedstat").read_text().split())
    return 1 + waited / max(ran, 1)


def _step_job(options: argparse.Namespace, folder: Path) -> RlJob:
    """The case's, its prompts learned from once and a further one held out."""
    case, tokenizer = CASES[options.case], AutoTokenizer.from_pretrained(MODEL)
    turns = [{"role": "user", "content": "ASKED"}]
    before, after = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)).split("ASKED")
    rendered = rendered_prompts(case.num_prompts * options.steps + 1)
    asked = [text.removeprefix(before).removesuffix(after) for text in rendered]
    _write(folder / "prompts.jsonl", asked[:-1])
    _write(folder / "heldout.jsonl", asked[-1:])
    return _job(
        _spec(options, case, {"sequences": case.answers, "accumulate": _ACCUMULATE[options.case]}),
        folder,
        base=MODEL,
        adapter=FULL,
        max_length=MAX_MODEL_LEN,
        more_ends=tuple(stop_ids(case)),
    )


def _adapter_job(options: argparse.Namespace, folder: Path) -> RlJob:
    lines = (ROOT / "recipes" / "northline" / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "prompts.jsonl").write_text("\n".join(lines[1:]), encoding="utf-8")
    (folder / "heldout.jsonl").write_text(lines[0], encoding="utf-8")
    return _job(
        _spec(options, _ADAPTER_CASE, {"sequences": _ADAPTER_CASE.answers}),
        folder,
        base=BUNDLED["tiny"],
        adapter=AdapterSpec(kind="lora", r=16, alpha=32),
        max_length=128,
    )


def _spec(options: argparse.Namespace, case: Case, batch: dict[str, int]) -> RlStage:
    return RlStage.model_validate(
        {
            "name": "bench",
            "kind": "rl",
            "algorithm": {"kind": "grpo", "average": "tokens", "clip_low": CLIP, "clip_high": CLIP},
            "kl": {"coef": 0.0},
            "prompts": ("prompts.jsonl",),
            "rewards": ({"function": "rewards.py:first_said"},),
            "rollout": {
                "prompts": case.num_prompts,
                "samples_per_prompt": case.num_samples,
                "max_new_tokens": case.max_new_tokens,
            },
            "iterations": options.steps,
            "max_staleness": options.staleness,
            "batch": batch,
            "lr": LR,
            "schedule": {"kind": "constant", "warmup": 0},
            "checkpoint": {"every": 10**6},
        }
    )


def _job(
    spec: RlStage, folder: Path, *, base: Path, adapter: AdapterSpec, max_length: int, more_ends: tuple[int, ...] = ()
) -> RlJob:
    tokenizer = load_tokenizer(base)
    opened = [
        open_source(DataSpec(path=name), lambda path: folder / path) for name in ("prompts.jsonl", "heldout.jsonl")
    ]
    return RlJob(
        name=spec.name,
        fingerprint="bench",
        spec=spec,
        seed=0,
        base=base,
        folder=folder / "stage",
        artifact=folder / "artifact",
        recipe="",
        end_ids=(*end_ids(tokenizer), *more_ends),
        adapter=adapter,
        from_adapter=None,
        max_length=max_length,
        precision="fp32",
        data=(),
        pad_id=tokenizer.pad_token_id or 0,
        prompts=(opened[0],),
        heldout_prompts=opened[1],
        models=(),
        critic=None,
        recipe_folder=folder,
    )


def _write(file: Path, asked: Sequence[str]) -> None:
    file.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in asked), encoding="utf-8")


if __name__ == "__main__":
    main()
