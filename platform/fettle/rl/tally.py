"""What the learner's steps say of an iteration: sums over its loss-bearing tokens, over all workers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

_SUMS = ("tokens", "loss", "value_loss", "surprise", "clipped", "kl", "ratio", "ratio_squared", "gap")
_MOST = ("ratio", "gap")


@dataclass(frozen=True)
class Figures:
    """Means over tokens unless said otherwise. entropy: minus the log-probability of what was drawn, whose expectation
    it is, in nats. clip_fraction: tokens that the clip stops. kl: log π − log π_ref, in nats, nan without a reference.
    ratio_mean, ratio_std, ratio_max: of π_old / π_sampler. gap_mean, gap_max: |log π_old − log π_sampler|, in nats."""

    loss: float
    value_loss: float | None
    entropy: float
    clip_fraction: float
    kl: float
    ratio_mean: float
    ratio_std: float
    ratio_max: float
    gap_mean: float
    gap_max: float


class Tally:
    """Adds up over the micro-batches of an iteration, without waiting for the device."""

    def __init__(self, *, has_reference: bool, has_critic: bool) -> None:
        self.has_reference, self.has_critic = has_reference, has_critic
        self._sums: dict[str, torch.Tensor] = {}
        self._most: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def add(
        self,
        *,
        loss: torch.Tensor,
        logprobs: torch.Tensor,
        old: torch.Tensor,
        sampler: torch.Tensor,
        is_clipped: torch.Tensor,
        reference: torch.Tensor | None = None,
        value_loss: torch.Tensor | None = None,
    ) -> None:
        """One micro-batch, [L] each. loss, value_loss: weighted. old: of the policy before the iteration's steps."""
        apart = (old - sampler).double()
        ratio = apart.exp()
        found = {
            "tokens": torch.ones_like(apart),
            "loss": loss,
            "surprise": -logprobs,
            "clipped": is_clipped,
            "ratio": ratio,
            "ratio_squared": ratio**2,
            "gap": apart.abs(),
        }
        if reference is not None:
            found["kl"] = logprobs - reference
        if value_loss is not None:
            found["value_loss"] = value_loss
        for name, values in found.items():
            self._sums[name] = self._sums.get(name, 0) + values.double().sum()
        if len(apart):
            for name in _MOST:
                before = self._most.get(name)
                most = found[name].max()
                self._most[name] = most if before is None else torch.maximum(before, most)

    def take(self, device: Any, world: int) -> Figures:
        """The figures of all workers, who call it together; then it is empty."""
        zero = torch.zeros((), dtype=torch.float64, device=device)
        sums = torch.stack([torch.as_tensor(self._sums.get(name, zero), device=device).double() for name in _SUMS])
        most = torch.stack([self._most.get(name, zero).to(device) for name in _MOST])
        if world > 1:
            torch.distributed.all_reduce(sums)
            torch.distributed.all_reduce(most, op=torch.distributed.ReduceOp.MAX)
        self._sums, self._most = {}, {}
        told = dict(zip(_SUMS, (sums / sums[0].clamp(min=1)).tolist(), strict=True))
        ratio_max, gap_max = most.tolist()
        return Figures(
            loss=told["loss"],
            value_loss=told["value_loss"] if self.has_critic else None,
            entropy=told["surprise"],
            clip_fraction=told["clipped"],
            kl=told["kl"] if self.has_reference else math.nan,
            ratio_mean=told["ratio"],
            ratio_std=math.sqrt(max(0.0, told["ratio_squared"] - told["ratio"] ** 2)),
            ratio_max=ratio_max,
            gap_mean=told["gap"],
            gap_max=gap_max,
        )
