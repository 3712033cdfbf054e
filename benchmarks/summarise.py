"""ROUGE of summaries before and after fine-tuning, on real papers and on the T5 walk-through, in one process.

    python benchmarks/summarise.py [papers|t5] [--steps 36] [--records 200]

papers: `base-8m` learns the one-sentence summaries of SciTLDR (Cachola et al. 2020, arXiv:2004.15011), abstracts only,
and is compared with the abstract's first sentence, and with itself before, on the first test papers; of several right
summaries the nearest counts, as in the paper. t5: recipes/t5.yaml, a T5 from nothing. Both need no cluster.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from fettle.data.sources import open_source
from fettle.evaluate.metrics import scored
from fettle.pipeline.answering import questions
from fettle.pipeline.evaluated import Comparison
from fettle.pipeline.evaluation import check_evaluations, compare
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.prepare import prepare
from fettle.pipeline.runner import STAGES
from fettle.recipe import Recipe, load_recipe
from fettle.recipe.cluster import ClusterSpec
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember
from fettle.train.worker import run_member
from house_format import ROOT, row, write_results

SHARED = ROOT.parent / "shared"
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory() as folder:
        recipe = (
            _papers(options, Path(folder)) if options.what == "papers" else load_recipe(ROOT / "recipes" / "t5.yaml")
        )
        compared, seconds = _trained(recipe, Path(folder) / "run")
    asked = questions(open_source(recipe.evaluate[0].data, recipe.resolve), recipe.evaluate[0].limit)
    firsts = [_SENTENCE.split(one.prompt.prompt.plain[0].strip())[0] for one in asked if one.prompt.prompt]
    lead = scored(firsts, [one.wanted for one in asked], ["rouge"])
    rows = []
    for name, score in compared.after.scores.items():
        before = compared.before.scores[name]
        print(f"{name}: before {_told(before)}, after {_told(score)}, first sentence {lead[name].mean:.4f}")
        what = f"{recipe.name}, {name} of {compared.after.records} held-out summaries, 95 % {_told(score)[7:]}"
        for peer, value in ((f"before, 95 % {_told(before)[7:]}", before["mean"]), ("first sentence", lead[name].mean)):
            ratio = score["mean"] / value if value else float(score["mean"] > 0)
            rows.append(row(what, "F-measure", round(score["mean"], 4), peer, round(value, 4), ratio, limit=True))
    after = compared.after
    print(f"{after.prompts_cut} prompts cut, {after.answers_unended} answers unended; trained in {seconds:.0f} s")
    write_results("summarise", rows, f"{torch.get_num_threads()} threads, {seconds:.0f} s of training", options.what)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=("papers", "t5"), default="papers")
    parser.add_argument("--steps", type=int, default=36)
    parser.add_argument("--records", type=int, default=200)
    return parser.parse_args()


def _papers(options: argparse.Namespace, folder: Path) -> Recipe:
    data = SHARED / "data" / "sft" / "summarise"
    told: dict[str, Any] = {
        "name": "papers",
        "base": str(SHARED / "models" / "base-8m"),
        "stages": [
            {
                "name": "summarise",
                "kind": "sft",
                "data": str(data / "scitldr_train.jsonl"),
                "heldout": {"data": {"path": str(data / "scitldr_dev.jsonl"), "limit": 100}},
                "max_length": 512,
                "max_steps": options.steps,
                "lr": 1e-3,
                "batch": {"tokens": 8192},
            }
        ],
        "evaluate": [
            {
                "kind": "generate",
                "data": str(data / "scitldr_test.jsonl"),
                "limit": options.records,
                "max_new_tokens": 64,
            }
        ],
    }
    (folder / "recipe.yaml").write_text(json.dumps(told))
    return load_recipe(folder / "recipe.yaml")


def _trained(recipe: Recipe, out: Path) -> tuple[Comparison, float]:
    """(the base against the result, seconds of training)."""
    stages = plan_stages(recipe, out)
    check_evaluations(recipe, stages)
    jobs, notes = prepare(recipe, stages, out / "tokens")
    print(*notes, sep="\n")
    (out / "epoch").write_text("bench")
    cluster = ClusterSpec(workers=1, zero=0, cpus_per_worker=2)
    began = time.monotonic()
    member = GroupMember(0, 1, cluster, Fence(out / "epoch", "bench"))
    run_member([(job, STAGES[job.spec.kind]) for job in jobs], member, None)
    seconds = time.monotonic() - began
    (compared,) = compare(recipe, stages, out, print)
    return compared, seconds


def _told(score: dict[str, float]) -> str:
    return f"{score['mean']:.4f} ({score['low']:.4f} to {score['high']:.4f})"


if __name__ == "__main__":
    main()
