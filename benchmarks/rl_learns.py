"""What reinforcement learning does to a real small model: two experiments over three seeds, with their curves.

    python benchmarks/rl_learns.py [grpo] [ppo] [--seeds 0 1 2] [--out runs/rl_learns] [--quick]

grpo: `base-8m` begins to learn to repeat three words from right answers, then GRPO with 1 for a right answer and 0 for
any other; measured is the share of right answers, one drawn for each question that neither stage has seen. (Sums, of
../shared/data/rlvr, it learns by heart: in 40 iterations GRPO raised nothing on others, at lr 3e-5 and 2e-4, 2026-11.)
ppo: a reward model learns which answers to HH-RLHF's prompts are harmless (Bai et al. 2022, arXiv:2204.05862), then PPO
from `base-8m` with it; measured is its mean reward for an answer to each prompt that neither has seen.

What is done in the folder --out is not done again, so that it may be interrupted; delete it after changing the sizes.
Of each it writes results/rl_learns-EXPERIMENT-DATE.json and docs/images/rl_EXPERIMENT.svg.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

import fettle
from fettle.artifact import read_artifact
from fettle.data.formats import read_file
from fettle.data.sources import open_source
from fettle.models.base import load_tokenizer
from fettle.recipe.data import DataSpec
from fettle.rl.prompts import prompts_in
from fettle.rl.recorder import IterationRow, read_rows
from house_format import ROOT, row, write_results
from rl_curves import draw

SHARED = ROOT.parent / "shared"
BASE = SHARED / "models" / "base-8m"
STORIES = SHARED / "data" / "pretrain" / "tinystories_slice.jsonl"
HARMLESS = SHARED / "data" / "preference" / "hh_harmless_test.jsonl"
CLUSTER = {"workers": 1, "zero": 0, "cpus_per_worker": 1, "precision": "fp32"}

COMMON, WORDS = 500, 3  # of the stories' words the most common ones; words of a question
NUM_LEARNED, NUM_PROMPTS, NUM_HELDOUT = 1200, 1000, 200
WORDS_LEARN: dict[str, Any] = {"max_steps": 190, "lr": 1e-3, "batch": {"sequences": 32}, "max_length": 64}
WORDS_ALIGN: dict[str, Any] = {
    "algorithm": "grpo",
    "rewards": [{"function": "rewards.py:right"}],
    "kl": {"coef": 1e-3},  # hardly holds it, and has the divergence measured
    "rollout": {"prompts": 32, "samples_per_prompt": 8, "max_new_tokens": 12},
    "iterations": 60,
    "lr": 1e-4,
    "max_length": 64,
}
REWARD = """def right(prompts, completions, answer, **columns):
    return [float(said[0]["content"].strip() == wanted) for said, wanted in zip(completions, answer, strict=True)]
"""

PAIRS_HELDOUT, LONGEST_PROMPT = 200, 300  # characters of a prompt, which is of one turn
PAIRS_LEARN: dict[str, Any] = {
    "heldout": {"fraction": 0.1, "max": 150},
    "max_length": 256,
    "on_long": "skip",
    "epochs": 2,
    "lr": 2e-4,
    "schedule": {"kind": "linear", "floor": 0.0},
    "batch": {"sequences": 32},
}
PAIRS_ALIGN: dict[str, Any] = {
    "kl": {"coef": 0.05},
    "rollout": {"prompts": 32, "samples_per_prompt": 2, "max_new_tokens": 48},
    "iterations": 60,
    "lr": 2e-5,
    "max_length": 192,
}
PAIRS_ALGORITHM: dict[str, Any] = {"kind": "ppo", "epochs": 2, "critic_lr": 2e-4}
QUICK = {"iterations": 2}


@dataclass(frozen=True)
class Learned:
    """One seed's run. before, after: mean reward of the held-out prompts, of which there are `heldout`."""

    seed: int
    before: float
    after: float
    heldout: int
    rows: list[IterationRow]


def main() -> None:
    options = _options()
    if not SHARED.is_dir():
        print(f"nothing measured: {SHARED}, with its data and models, is not here")
        return
    used = f"1 core of a worker and 1 engine in turns, fp32, torch {torch.__version__}"
    for what in options.what:
        folder = options.out.resolve() / what
        folder.mkdir(parents=True, exist_ok=True)
        one = (_words if what == "grpo" else _harmless)(folder, options)
        print(f"{one['what']}\n  {one['peer']}: {one['peer_value']}, after: {one['fettle']} {one['unit']}")
        write_results("rl_learns", [one], used, f"{what}{_suffix(options)}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=("grpo", "ppo", []), default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "rl_learns")
    parser.add_argument("--quick", action="store_true", help="few steps, in a folder of its own: whether it works")
    options = parser.parse_args()
    options.what = options.what or ["grpo", "ppo"]
    if options.quick:
        options.out = options.out.with_name(options.out.name + "-quick")
    return options


def _words(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    texts = [json.loads(line)["text"] for line in STORIES.read_text(encoding="utf-8").splitlines()]
    counted = Counter(word for text in texts for word in re.findall(r"\b[a-z]{3,7}\b", text))
    words, dice = [word for word, _ in counted.most_common(COMMON)], random.Random(0)
    drawn = [" ".join(dice.sample(words, WORDS)) for _ in range(NUM_LEARNED + NUM_PROMPTS + NUM_HELDOUT)]
    asked = [{"prompt": [{"role": "user", "content": f"Repeat these words: {one}"}], "answer": one} for one in drawn]
    _write(
        folder / "learned.jsonl", [{"prompt": f"Repeat these words: {o}", "completion": o} for o in drawn[:NUM_LEARNED]]
    )
    _write(folder / "prompts.jsonl", asked[NUM_LEARNED:-NUM_HELDOUT])
    _write(folder / "heldout.jsonl", asked[-NUM_HELDOUT:])
    (folder / "rewards.py").write_text(REWARD, encoding="utf-8")
    told = WORDS_LEARN | {"name": "learn", "kind": "sft", "data": "learned.jsonl"}
    learned = _run(folder, "learn", told | ({"max_steps": 5} if options.quick else {}))
    found = _seeds(folder, WORDS_ALIGN, learned, options)
    counts = ", ".join(f"{_count(one.before, one)} → {_count(one.after, one)} of {one.heldout}" for one in found)
    before, after = _means(found)
    what = f"GRPO on repeating {WORDS} words, after sft: held-out exact match, mean of {len(found)} seeds ({counts})"
    told = row(what, "share", round(after, 4), "before", round(before, 4), after / max(before, 1e-9), limit=False)
    draw(ROOT / "docs" / "images" / f"rl_grpo{_suffix(options)}.svg", found, "exact match")
    return told | _curves(found)


def _harmless(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    lines = HARMLESS.read_text(encoding="utf-8").splitlines()
    pairs = [(lines[record.line - 1], record.prompt.turns) for record in read_file(HARMLESS)[1] if record.prompt]
    asked = [
        turns[0].content if len(turns) == 1 and len(turns[0].content) <= LONGEST_PROMPT else None for _, turns in pairs
    ]
    places = {text: place for place, text in enumerate(asked) if text is not None}
    apart = set(list(places)[:PAIRS_HELDOUT])
    # By what is said first, so that no other conversation that begins so is learned from either.
    kept = [line for line, turns in pairs if turns[0].content not in apart]
    (folder / "pairs.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
    turned = {True: [], False: []}  # type: dict[bool, list[dict[str, Any]]]
    for text in places:
        turned[text in apart].append({"prompt": [{"role": "user", "content": text}]})
    _write(folder / "heldout.jsonl", turned[True])
    _write(folder / "prompts.jsonl", turned[False])
    told = PAIRS_LEARN | {"name": "taste", "kind": "reward", "data": "pairs.jsonl"}
    taste = _run(folder, "taste", told | ({"max_steps": 2, "epochs": None} if options.quick else {}))
    measures = read_artifact(taste).metrics["measures"]["accuracy"]
    align = PAIRS_ALIGN | {"algorithm": PAIRS_ALGORITHM | {"critic": str(taste)}}
    found = _seeds(folder, align | {"rewards": [{"stage": str(taste), "name": "taste"}]}, BASE, options)
    before, after = _means(found)
    each = ", ".join(f"{one.before:.2f} → {one.after:.2f}" for one in found)
    kl = ", ".join(f"{one.rows[-1].kl['answer']:.1f}" for one in found)
    what = (
        f"PPO with a reward model: held-out reward of {found[0].heldout} answers, mean of {len(found)} seeds ({each};"
        f" KL {kl} nats an answer); the reward model ranks {measures['before']:.1%} → {measures['after']:.1%} of its"
        " own held-out pairs right; ratio: the odds that it prefers an answer from after, exp(after - before)"
    )
    told = row(what, "reward", round(after, 4), "before", round(before, 4), math.exp(after - before), limit=False)
    draw(ROOT / "docs" / "images" / f"rl_ppo{_suffix(options)}.svg", found, "reward")
    return told | _curves(found)


def _seeds(folder: Path, align: dict[str, Any], base: Path, options: argparse.Namespace) -> list[Learned]:
    """The rl stage from the model in `base`, once with each seed."""
    own = {"heldout": {"data": "heldout.jsonl"}, "prompts": "prompts.jsonl", "checkpoint": {"every": 20, "keep": 1}}
    stage = align | own | {"name": "align", "kind": "rl"} | (QUICK if options.quick else {})
    source = open_source(DataSpec(path="heldout.jsonl"), lambda path: folder / path)
    room = stage["max_length"] - stage["rollout"]["max_new_tokens"]
    heldout = sum(len(one.ids) <= room for one in prompts_in(source, load_tokenizer(base)))
    found = []
    for seed in options.seeds:
        artifact = _run(folder, f"align-{seed}", stage, base=base, seed=seed)
        reward = read_artifact(artifact).metrics["reward"]
        rows = read_rows(folder / f"align-{seed}" / "stages" / artifact.name / "iterations.jsonl")
        found.append(Learned(seed, reward["heldout_before"], reward["heldout_after"], heldout, rows))
    return found


def _run(folder: Path, name: str, stage: dict[str, Any], *, base: Path = BASE, seed: int = 0) -> Path:
    """The artifact of a recipe of one stage, which is run in folder/name."""
    stage = {key: value for key, value in stage.items() if value is not None}
    recipe = folder / f"{name}.yaml"
    told = {"name": name, "base": str(base), "cluster": CLUSTER, "stages": [stage]}
    recipe.write_text(yaml.safe_dump(told, sort_keys=False), encoding="utf-8")
    return fettle.run(recipe, out=folder / name, set={"seed": seed}).artifact


def _means(found: Sequence[Learned]) -> tuple[float, float]:
    return statistics.mean(one.before for one in found), statistics.mean(one.after for one in found)


def _count(share: float, of: Learned) -> int:
    return round(share * of.heldout)


def _curves(found: Sequence[Learned]) -> dict[str, Any]:
    """Of each seed what was measured, and a figure an iteration."""
    return {
        "seeds": {
            str(one.seed): {
                "heldout": [one.before, one.after],
                "reward": [round(r.reward, 4) for r in one.rows],
                "kl": [round(r.kl["answer"], 4) for r in one.rows],
                "length": [round(r.lengths["mean"], 2) for r in one.rows],
                "gap": [float(f"{r.gap['mean']:.3g}") for r in one.rows],
            }
            for one in found
        }
    }


def _suffix(options: argparse.Namespace) -> str:
    return "-quick" if options.quick else ""


def _write(file: Path, records: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in records), encoding="utf-8")


if __name__ == "__main__":
    main()
