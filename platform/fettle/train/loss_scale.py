"""Loss scaling: in float16 small gradients would be 0, so losses are scaled up and gradients down again before a step.

Micikevicius et al. 2018, arXiv:1710.03740, section 3.2. The scale is dynamic: a step whose gradients overflow is left
out, with that of the schedule, and halves it; so many steps without one double it. Checkpoints hold it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from fettle.train.zero import engine_scale, restore_engine_scale, scale_losses_of

FIRST_SCALE = 2.0**16
STEPS_TO_DOUBLE = 2000


def scale_losses(trainer: Trainer) -> None:
    """Has a trainer that has not begun scale its losses: with torch's scaler, or, through an engine, DeepSpeed's."""
    if trainer.is_deepspeed_enabled:
        trainer.add_callback(_ScaleOfEngine())
        return
    accelerator: Any = trainer.accelerator
    scaler = torch.amp.GradScaler(trainer.args.device.type, init_scale=FIRST_SCALE, growth_interval=STEPS_TO_DOUBLE)

    def unscale(optimizer: Any = None) -> None:
        for wrapped in accelerator._optimizers:
            # Fused, they would leave a step out by themselves, and nobody would know that the schedule has to wait.
            wrapped.optimizer._step_supports_amp_scaling = False
            scaler.unscale_(wrapped.optimizer)

    # accelerate would do both itself, but on GPUs alone; it calls the second before it measures the gradients' norm.
    accelerator.scaler, accelerator.unscale_gradients = scaler, unscale


def scale_of(trainer: Any) -> dict[str, float] | None:
    """The scale, and how many steps have not overflowed since it last changed for an overflow; None where losses are
    not scaled."""
    if trainer.is_deepspeed_enabled:
        return engine_scale(trainer.deepspeed.optimizer)
    scaler = trainer.accelerator.scaler
    if not isinstance(scaler, torch.amp.GradScaler):
        return None
    told = scaler.state_dict()
    return {"scale": told["scale"], "steps": told["_growth_tracker"]}


def restore_scale(trainer: Any, told: dict[str, float] | None) -> None:
    """Goes on with what `scale_of` told of a checkpoint, written with an engine or without."""
    if told is None:
        return
    if trainer.is_deepspeed_enabled:
        optimizer = trainer.deepspeed.optimizer
        scale_losses_of(optimizer, FIRST_SCALE, STEPS_TO_DOUBLE)
        restore_engine_scale(optimizer, told["scale"], int(told["steps"]))
        return
    scaler = trainer.accelerator.scaler
    steps = {"scale": told["scale"], "_growth_tracker": int(told["steps"]) % STEPS_TO_DOUBLE}
    scaler.load_state_dict(scaler.state_dict() | steps)


class _ScaleOfEngine(TrainerCallback):
    """DeepSpeed's, which there is only when the training begins."""

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        scale_losses_of(optimizer.optimizer, FIRST_SCALE, STEPS_TO_DOUBLE)
