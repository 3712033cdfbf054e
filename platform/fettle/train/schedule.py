"""The learning rate over a stage: linear warm-up, then cosine (Loshchilov & Hutter 2016, eq. 5), linear or constant."""

from __future__ import annotations

import math

from fettle.recipe.stages import ScheduleSpec


def rate_at(step: int, steps: int, spec: ScheduleSpec) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`, as a share of the peak; ends at `spec.floor`."""
    warmup = round(spec.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if spec.kind == "constant":
        return 1.0
    done = min(1.0, (step - warmup) / max(1, steps - 1 - warmup))
    falling = 0.5 * (1 + math.cos(math.pi * done)) if spec.kind == "cosine" else 1 - done
    return spec.floor + (1 - spec.floor) * falling
