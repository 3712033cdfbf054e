"""Everything that a trainer goes on from, into a checkpoint and out of it: the same for any number of workers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.train.loss_scale import restore_scale, scale_of
from fettle.train.shares import shares_of

if TYPE_CHECKING:
    from fettle.train.trainer import StageTrainer
    from fettle.train.writer import Written

_STATE = "trainer_state.json"  # transformers looks for it under that name
_SCHEDULE = "schedule.json"


def save_progress(trainer: StageTrainer, folder: Path, and_keep: int | None) -> None:
    """Has the checkpoint of the step that was just made written into `folder`, the writer's; all workers call it.

    and_keep: the step of another checkpoint that is to stay.
    """
    if trainer.is_world_process_zero():
        # Its history would make the checkpoint of step N write N rows; progress.jsonl has them.
        replace(trainer.state, log_history=[]).save_to_json(str(folder / _STATE))
        schedule = _schedule_of(trainer)
        told = {"last_epoch": schedule.last_epoch, "step_count": schedule._step_count}
        (folder / _SCHEDULE).write_text(json.dumps(told | {"scale": scale_of(trainer)}), encoding="utf-8")
    optimizer = _optimizer_of(trainer)
    trainer.writer.write(
        trainer.state.global_step, shares_of(trainer.model, optimizer), optimizer.state, and_keep=and_keep
    )


def restore_progress(trainer: StageTrainer, written: Written) -> None:
    """Puts what was kept of optimizer, schedule and loss scale into a trainer that has made no step."""
    optimizer, schedule = _optimizer_of(trainer), _schedule_of(trainer)
    rank, world = trainer.batches.rank, trainer.batches.world
    written.stored.load_state(shares_of(trainer.model, optimizer), optimizer, written.plain(), rank, world)
    told = json.loads((written.folder / _SCHEDULE).read_text(encoding="utf-8"))
    schedule.last_epoch, schedule._step_count = told["last_epoch"], told["step_count"]
    # Worked out again, by this stage's own rate: where it has taken over another's checkpoint, that had another.
    schedule._last_lr = [
        base * share(schedule.last_epoch) for base, share in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
    ]
    for group, rate in zip(optimizer.param_groups, schedule._last_lr, strict=True):
        group["lr"] = rate
    restore_scale(trainer, told["scale"])


def _optimizer_of(trainer: Any) -> Any:
    """DeepSpeed's, else torch's own; accelerate has wrapped either."""
    return trainer.deepspeed.optimizer if trainer.is_deepspeed_enabled else trainer.optimizer.optimizer


def _schedule_of(trainer: Any) -> Any:
    """torch's own; accelerate may have wrapped it."""
    return getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
