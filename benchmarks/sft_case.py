"""What all sides of `sft.py` train on and are judged by. A peer's environment has no
fettle: this imports nothing of it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.profiler import profile
from transformers import TrainerCallback

LR, BETAS, CLIP, MAX_LENGTH, SEQUENCES, WARM_UP = 5e-4, (0.9, 0.95), 1.0, 512, 32, 2
LORA_R = 16
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
PROFILED = "SFT_PROFILED"
AT_ONCE = 2  # rows of a micro-batch: all of a step's at once take TRL three times as long on a CPU, for the memory


@dataclass(frozen=True)
class Case:
    """folder: with `train.json` and `heldout.json`, lists of {input_ids, completion_mask}; each is learned once."""

    folder: Path
    base: str
    precision: str
    adapter: str

    @property
    def train(self) -> list[dict[str, list[int]]]:
        """The records, in order."""
        found: list[dict[str, list[int]]] = json.loads((self.folder / "train.json").read_text())
        return found

    @property
    def tokens(self) -> int:
        """Of all records: useful ones, without padding."""
        return sum(len(one["input_ids"]) for one in self.train)

    @property
    def steps(self) -> int:
        """Optimizer steps, of SEQUENCES records each."""
        return len(self.train) // SEQUENCES

    @property
    def accumulate(self) -> int:
        """Micro-batches of a step, of AT_ONCE packed rows each."""
        return max(1, round(self.tokens / self.steps / MAX_LENGTH / AT_ONCE))


class OneStep:
    """Torch's profile of an optimizer step, from the end of the WARM_UPth one to the end of the next, of whatever
    trains in this process. In `told`, once it is over: seconds by kind of operation, the products' GFLOP/s, and those
    of one large product."""

    def __init__(self) -> None:
        self.told: dict[str, float] = {}
        self._ended, self._began, self._profile = 0, 0.0, profile(with_flops=True)
        self._hook = register_optimizer_step_post_hook(self._end)

    def _end(self, *_: Any) -> None:
        self._ended += 1
        if self._ended == WARM_UP:
            self._profile.start()
            self._began = time.perf_counter()
        elif self._ended == WARM_UP + 1:
            whole = time.perf_counter() - self._began
            self._profile.stop()
            self._hook.remove()
            self._tell(whole)

    def _tell(self, whole: float) -> None:
        events = self._profile.key_averages()
        products = [one for one in events if one.key in PRODUCTS]
        seconds = sum(one.self_cpu_time_total for one in products) / 1e6
        attention = sum(one.self_cpu_time_total for one in events if "attention" in one.key) / 1e6
        self.told = {"products": seconds, "attention": attention, "all else": whole - seconds - attention}
        self.told["gflops"] = sum(one.flops for one in products) / seconds / 1e9


def ceiling(precision: str) -> float:
    """GFLOP/s of one large matrix product, the best of 20."""
    one, other = torch.rand(2, 1024, 1024, dtype=torch.bfloat16 if precision == "bf16" else torch.float32)
    best = float("inf")
    for _ in range(20):
        began = time.perf_counter()
        torch.mm(one, other)
        best = min(best, time.perf_counter() - began)
    return 2 * 1024**3 / best / 1e9


@dataclass
class Clock(TrainerCallback):
    """When each optimizer step ended, of a loop that says so or of a transformers trainer; and what the PROFILED
    environment variable asks for."""

    ends: list[float] = field(default_factory=list)
    profile: OneStep | None = field(default_factory=lambda: OneStep() if PROFILED in os.environ else None)

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """One has ended."""
        self.ends.append(time.perf_counter())

    def speed(self, tokens_a_step: float) -> float:
        """Useful tokens a second after the first WARM_UP steps."""
        steps = len(self.ends) - WARM_UP
        return tokens_a_step * steps / (self.ends[-1] - self.ends[WARM_UP - 1])


@torch.no_grad()
def heldout_loss(model: Any, folder: Path) -> float:
    """Nats a token of the held-out answers, each record alone, in float32."""
    model = model.float().eval()
    total, count = 0.0, 0
    for record in json.loads((folder / "heldout.json").read_text()):
        ids = torch.tensor([record["input_ids"]])
        wanted = torch.tensor(record["completion_mask"][1:], dtype=torch.bool)
        logits = model(input_ids=ids).logits[0, :-1][wanted]
        total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:][wanted], reduction="sum"))
        count += int(wanted.sum())
    return total / count


def told(clock: Clock, case: Case, model: Any, steps: int | None = None) -> None:
    """Prints a side's line. steps: optimizer steps over all records, where they are not the case's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    speed = clock.speed(case.tokens / (steps or case.steps))
    found = {"speed": speed, "peak": peak, "loss": heldout_loss(model, case.folder)}
    if clock.profile is not None:
        found |= clock.profile.told | {"ceiling": ceiling(case.precision)}
    print(json.dumps(found))
