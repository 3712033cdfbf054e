"""The learning rate over a stage: linear warm-up, then cosine (Loshchilov & Hutter 2016, eq. 5), linear, constant, or
constant with a decay at the end (WSD: Hu et al. 2024, arXiv:2404.06395, eq. 1)."""

from __future__ import annotations

import math

from fettle.recipe.optimizer import ScheduleSpec


def rate_at(step: int, steps: int, spec: ScheduleSpec) -> float:
    """The rate of optimizer step `step` (from 0) of `steps`, as a share of the peak; ends at `spec.floor`."""
    warmup = round(spec.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if spec.floor is None:  # constant
        return 1.0
    stable = warmup
    if spec.decay is not None:
        # The last step at the peak; as many follow as `decay` says, in equal parts down to the floor.
        stable = max(warmup, steps - 1 - max(1, round(spec.decay * steps)))
    done = min(1.0, max(0, step - stable) / max(1, steps - 1 - stable))
    falling = 0.5 * (1 + math.cos(math.pi * done)) if spec.kind == "cosine" else 1 - done
    return spec.floor + (1 - spec.floor) * falling
