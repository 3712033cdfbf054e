"""A machine that is about to go says so: a checkpoint is written before anything else.

Who says it: SIGTERM to the driver (a cluster's scheduler, `ray job stop`), which leaves a note in the run's folder, or
Ray, whose node is being drained.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

from fettle.train.note import read_note
from fettle.train.writer import CheckpointWriter

_ASK_RAY_EVERY_S = 5.0
_NOBODY, _DRIVER, _PERHAPS_RAY = range(3)


class SaveOnNotice(TrainerCallback):
    """Has a checkpoint written, out of turn, at the end of the step in which it is asked for; all workers alike.

    writer: to wait for. every: the steps after which a checkpoint can be written at all. is_leaving: whether Ray is
    about to take a worker's machine away; all workers ask together, now and then.
    """

    def __init__(self, writer: CheckpointWriter, every: int, is_leaving: Callable[[], bool] | None) -> None:
        self.writer, self.every, self.is_leaving = writer, every, is_leaving
        self._asked_ray = time.monotonic()
        self._is_asked = self._has_obeyed_ray = False
        self._read = self._note()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step % self.every:
            return
        asked = self._first_sees(args)
        if asked == _PERHAPS_RAY and self.is_leaving is not None and not self._has_obeyed_ray:
            self._is_asked = self._has_obeyed_ray = self.is_leaving()
        elif asked == _DRIVER:
            self._is_asked = True
        control.should_save = control.should_save or self._is_asked

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._is_asked:
            self._is_asked = False
            self.writer.wait()

    def _first_sees(self, args: Any) -> int:
        """What the first worker sees, told to all."""
        seen = _NOBODY
        if self.writer.rank == 0:
            if (note := self._note()) != self._read:
                self._read, seen = note, _DRIVER
            elif self.is_leaving is not None and time.monotonic() - self._asked_ray > _ASK_RAY_EVERY_S:
                self._asked_ray, seen = time.monotonic(), _PERHAPS_RAY
        if self.writer.world == 1:
            return seen
        told = torch.tensor(seen, device=args.device)
        torch.distributed.broadcast(told, src=0)
        return int(told)

    def _note(self) -> str | None:
        return read_note(self.writer.checkpoints.fence)
