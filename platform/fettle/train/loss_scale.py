"""Loss scaling: in float16 small gradients would be 0, so losses are scaled up and gradients down again before a step.

Micikevicius et al. 2018, arXiv:1710.03740, section 3.2. The scale is dynamic: a step whose gradients overflow is left
out, with that of the schedule, and halves it; so many steps without one double it. Checkpoints hold it.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import Trainer, TrainerCallback

from fettle.train.zero import scale_losses_of

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


class _ScaleOfEngine(TrainerCallback):
    """DeepSpeed's, which there is only when the training begins."""

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        scale_losses_of(optimizer.optimizer, FIRST_SCALE, STEPS_TO_DOUBLE)
