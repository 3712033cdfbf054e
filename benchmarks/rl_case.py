"""One step of GRPO as all sides of `rl.py` take it: prompts, sampling, reward, and how a step's time is told.

Answers of `ragged` end at the first line break too, after 1 to 256 tokens with a median of 34 and a mean of 55
(2026-11); those of `small` only where the model ends them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import AutoTokenizer

from house_format import ROOT, peak_mib

MODEL = ROOT.parent / "shared" / "models" / "base-8m"
PROMPTS = ROOT.parent / "shared" / "data" / "sft" / "alpaca_en_demo.json"
MAX_MODEL_LEN, LONGEST_PROMPT = 512, 64
LR, CLIP = 1e-6, 0.2  # too small a rate to change how long answers are


@dataclass(frozen=True)
class Case:
    """One step. stops: the words that end an answer, each one token, beside the model's own end tokens."""

    num_prompts: int
    num_samples: int
    max_new_tokens: int
    stops: tuple[str, ...] = ()

    @property
    def answers(self) -> int:
        return self.num_prompts * self.num_samples


CASES = {"small": Case(8, 8, 64), "ragged": Case(32, 8, 256, ("\n", "\n\n"))}


@dataclass(frozen=True)
class Clock:
    """Seconds of the wall's clock and of this process's, all threads together."""

    wall: float
    cpu: float

    @classmethod
    def now(cls) -> Clock:
        return cls(time.perf_counter(), time.process_time())

    def __sub__(self, other: Clock) -> Clock:
        return Clock(self.wall - other.wall, self.cpu - other.cpu)


@dataclass(frozen=True)
class Step:
    """What one step took. sync: until the engine has the new weights; in neither of the others."""

    generate: Clock
    learn: Clock
    sync: Clock | None
    lengths: list[int]


def rendered_prompts(num: int) -> list[str]:
    """The first instructions that make prompts of at most 64 tokens, as the model's chat template renders them."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    found = []
    for asked in json.loads(PROMPTS.read_text(encoding="utf-8")):
        turns = [{"role": "user", "content": "\n".join(filter(None, (asked["instruction"], asked["input"])))}]
        text = str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))
        if len(tokenizer(text)["input_ids"]) <= LONGEST_PROMPT:
            found.append(text)
        if len(found) == num:
            return found
    raise ValueError(f"{PROMPTS} has {len(found)} short prompts, not {num}")


def stop_ids(case: Case) -> list[int]:
    """The tokens that end an answer beside the model's own."""
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    return [id for stop in case.stops for id in tokenizer(stop, add_special_tokens=False)["input_ids"]]


def reward(text: str) -> float:
    """The share of an answer's words that it says for the first time."""
    words = text.split()
    return len(set(words)) / max(1, len(words))


def summary(steps: Sequence[Step]) -> dict[str, Any]:
    """Medians over the steps after the first; `seconds` and `cpu_seconds` are of whole steps without the sync."""
    told = steps[1:]
    lengths = [length for step in told for length in step.lengths]
    found: dict[str, Any] = {}
    for kind, prefix in (("wall", ""), ("cpu", "cpu_")):
        each = [getattr(step.generate, kind) + getattr(step.learn, kind) for step in told]
        found[f"{prefix}seconds"] = round(statistics.median(each), 3)
        for part in ("generate", "learn", "sync"):
            clocks = [getattr(step, part) for step in told]
            if None not in clocks:
                found[f"{prefix}{part}"] = round(statistics.median(getattr(one, kind) for one in clocks), 3)
        found[f"{prefix}each"] = [round(one, 2) for one in each]
    return found | {
        "tokens_per_step": round(sum(lengths) / len(told)),
        "mean_length": round(statistics.mean(lengths), 1),
        "length_quartiles": [round(one) for one in np.percentile(lengths, (0, 25, 50, 75, 100))],
        "peak_mib": round(peak_mib()),
    }
