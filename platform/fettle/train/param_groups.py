"""Which layers learn at which share of the rate, and when: ULMFiT (Howard & Ruder 2018, arXiv:1801.06146).

Discriminative fine-tuning (section 3.2): the rate falls by a constant factor from each layer to the one below.
Gradual unfreezing (section 3.3): the head alone learns at first, then one more layer from the top each part of the
steps. How deep a layer lies is told by models/layers.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn import Module
from torch.optim import Optimizer

from fettle.models.layers import depths, freeze_below

DEPTH = "depth"  # of an optimizer's group
Rate = Callable[[int], float]


@dataclass(frozen=True)
class LayerRates:
    """unfreeze: all weights learn; the head alone; or the head and, one by one, the last N layers. layer_decay: rate of
    a layer over that of the one above it."""

    unfreeze: Literal["all", "head"] | int = "all"
    layer_decay: float = 1.0

    @property
    def num_gradual(self) -> int:
        """Layers that are unfrozen on the way."""
        return self.unfreeze if isinstance(self.unfreeze, int) else 0

    def is_frozen(self, depth: int, step: int, num_steps: int) -> bool:
        """Whether a layer has yet to wait at optimizer step `step`, from 0, of `num_steps`, which are divided into
        N + 1 equal parts."""
        if self.unfreeze == "all":
            return False
        part = step * (self.num_gradual + 1) // num_steps
        return depth > min(part, self.num_gradual)

    def share(self, depth: int, step: int, num_steps: int) -> float:
        """The layer's share of the rate that the schedule gives; 0 while it is frozen, and with it the decay."""
        return 0.0 if self.is_frozen(depth, step, num_steps) else self.layer_decay**depth

    def freeze(self, model: Module) -> None:
        """Takes out of the training what is never unfrozen."""
        if self.unfreeze != "all":
            freeze_below(model, self.num_gradual)

    def cut_gradients(self, model: Module, state: Any) -> None:
        """Makes the gradients of layers that wait zero, whichever step `state.global_step` of `state.max_steps` is.

        A rate of 0 alone would leave their gradients in the norm that the head's are clipped by, and in their own
        moments. `requires_grad` cannot change on the way: DeepSpeed's partitions hold what had it at the beginning.
        """
        if not self.num_gradual:
            return
        for name, depth in depths(model).items():
            if 0 < depth <= self.num_gradual:
                model.get_parameter(name).register_hook(_Cut(self, depth, state))

    def split(self, model: Module, optimizer: Optimizer) -> None:
        """Splits the groups of a new optimizer by depth; each group's is under "depth". The head's come first, whose
        rate is the one that is told."""
        found = depths(model)
        of = {id(parameter): found[name] for name, parameter in model.named_parameters()}
        groups = []
        for group in optimizer.param_groups:
            for depth in sorted({of[id(parameter)] for parameter in group["params"]}):
                alike = [parameter for parameter in group["params"] if of[id(parameter)] == depth]
                groups.append({**group, "params": alike, DEPTH: depth})
        optimizer.param_groups[:] = sorted(groups, key=lambda group: int(group[DEPTH]))

    def of_groups(self, optimizer: Optimizer, rate: Rate, num_steps: int) -> list[Rate]:
        """The rate of each group of an optimizer that was split, at a step, where the schedule gives `rate`."""

        def of_depth(depth: int) -> Rate:
            # A function, since a checkpoint of the schedule holds what any other callable holds.
            return lambda step: rate(step) * self.share(depth, step, num_steps)

        return [of_depth(group[DEPTH]) for group in optimizer.param_groups]


@dataclass(frozen=True)
class _Cut:
    rates: LayerRates
    depth: int
    state: Any

    def __call__(self, gradient: torch.Tensor) -> torch.Tensor:
        waits = self.rates.is_frozen(self.depth, self.state.global_step, self.state.max_steps)
        return torch.zeros_like(gradient) if waits else gradient
