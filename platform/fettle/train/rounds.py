"""A stage trained in rounds: after each it is measured, and waits there to be told to go on. Sweeps compare by it.

In the stage's folder rounds.jsonl has a row for every round but the last, which the artifact tells of, and rounds.told
how many rounds may be trained, or `stop`: the same for a stage in this process and for one in a worker group.
"""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from fettle.errors import StageFailed
from fettle.train.checkpoint import Checkpoints
from fettle.train.progress import cut_torn_line

if TYPE_CHECKING:
    from fettle.train.job import LearnJob
    from fettle.train.trainer import StageTrainer

TOLD = "rounds.told"
_ROWS, _STOP = "rounds.jsonl", "stop"
_POLL_S = 0.02


class Paused(Exception):
    """The stage ends here for now; another time it goes on from its checkpoint."""


@dataclass(frozen=True)
class Round:
    """number: from 1. step: the last optimizer step of it. measures: of the held-out records, `loss` among them."""

    number: int
    step: int
    measures: dict[str, float]


def last_steps(steps: int, rounds: int) -> list[int]:
    """The last step of each round; of a stage with fewer steps than rounds, every step is a round."""
    return sorted({math.ceil(steps * number / rounds) for number in range(1, rounds + 1)})


def tell(folder: Path, rounds: int | None) -> None:
    """Says how many rounds the stage in a folder may train; None: it is to stop where it is."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{TOLD}"
    partial.write_text(_STOP if rounds is None else str(rounds), encoding="utf-8")
    os.replace(partial, folder / TOLD)


def read_rounds(folder: Path) -> list[Round]:
    """Those that are over, in order."""
    try:
        text = (folder / _ROWS).read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    rows = [Round(**json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]
    return sorted({row.number: row for row in rows}.values(), key=lambda row: row.number)


def write_rounds(folder: Path, rounds: list[Round]) -> None:
    """In place of those that are there."""
    folder.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(asdict(row)) + "\n" for row in rounds)
    (folder / _ROWS).write_text(text, encoding="utf-8")


def take_over(checkpoint: Path, step: int, checkpoints: Checkpoints) -> None:
    """Makes another stage's checkpoint the newest of this one, whose own later ones go: what was learned is the other's
    from here on, how it goes on is this one's. Raises FettleError where a later run has taken over the folder."""
    for own in checkpoints.complete():
        if own >= step:
            checkpoints.drop(own)
    checkpoints.adopt(checkpoint, step)


class Rounds(TrainerCallback):
    """Of one worker of a stage. Raises Paused, on all workers at the same step, where it is told to stop; StageFailed
    where the loss is no number any more, from which no later step comes back."""

    def __init__(self, job: LearnJob, rank: int, world: int) -> None:
        assert job.rounds is not None
        self.folder, self.rounds, self.rank, self.world = job.folder, job.rounds, rank, world
        self.name = job.name
        self.is_stopped = False
        self.trainer: StageTrainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.rank == 0:
            cut_torn_line(self.folder / _ROWS)
        if state.global_step:
            self._at_end_of(state.global_step, state.max_steps)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if "loss" in logs and not math.isfinite(float(logs["loss"])):
            raise StageFailed(f"stage {self.name} diverged: the loss of step {state.global_step} is {logs['loss']}")

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.is_stopped = self._agreed(self._told() == _STOP)
        ends = last_steps(state.max_steps, self.rounds)
        control.should_save = control.should_save or self.is_stopped or state.global_step in ends[:-1]

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._at_end_of(state.global_step, state.max_steps)
        if self.is_stopped:
            self.trainer.writer.wait()
            raise Paused

    def _at_end_of(self, step: int, steps: int) -> None:
        """Measures, and waits, if the step is the last of a round, and another round follows."""
        ends = last_steps(steps, self.rounds)
        if step not in ends[:-1]:
            return
        number = ends.index(step) + 1
        self.trainer.writer.wait()
        if not self._agreed(any(row.number == number for row in read_rounds(self.folder))):
            measures = self.trainer.heldout_measures(self.trainer.steps.heldout)
            if self.rank == 0:
                with open(self.folder / _ROWS, "a", encoding="utf-8") as stream:
                    stream.write(json.dumps(asdict(Round(number, step, measures))) + "\n")
        while True:
            told = self._told()
            may = self._agreed(told.isdigit() and int(told) > number)
            if may or self._agreed(told == _STOP):
                break
            self.trainer.writer.checkpoints.fence.check()
            time.sleep(_POLL_S)
        if not may:
            raise Paused

    def _told(self) -> str:
        try:
            return (self.folder / TOLD).read_text(encoding="utf-8") if self.rank == 0 else ""
        except FileNotFoundError:
            return ""

    def _agreed(self, seen: bool) -> bool:
        """What the first worker has seen, told to all."""
        if self.world == 1:
            return seen
        told = torch.tensor(int(seen), device=self.trainer.args.device)
        torch.distributed.broadcast(told, src=0)
        return bool(told)
