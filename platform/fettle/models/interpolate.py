"""Weights between an untuned and a tuned model's: θ = (1 - α) θ_untuned + α θ_tuned, as near to the tuned ones as a
budget of forgetting allows.

WiSE-FT: Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (arXiv:2109.01903, section 3, weight-space
ensembling). There α is chosen by what the mixture can do; here it is the largest that keeps a probe's loss in budget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from fettle.errors import UserError
from fettle.models.base import load_weights

_HALVINGS = 5  # of the grid's step, after it


@dataclass(frozen=True)
class Search:
    """untuned: folder of the weights at α = 0. budget: what may be forgotten, nats a token. steps: of the grid, its
    ends included. loss: of a model in evaluation on the probe, nats a token."""

    untuned: Path
    budget: float
    steps: int
    loss: Callable[[Any], float]


def interpolated(model: Any, search: Search, dtype: torch.dtype) -> dict[str, Any]:
    """Brings the tuned weights of `model`, float32, as far towards the untuned ones as the budget wants, in place;
    gives alpha, budget, loss (of the untuned weights), forgetting, and of all that was tried the curve.

    Every mixture is rounded to `dtype`, in which it will be written, before its loss is measured. Raises UserError
    where the two models are of other shapes.
    """
    untuned = dict(load_weights(search.untuned, torch.float32).named_parameters(remove_duplicate=False))
    ends = []
    for name, weight in model.named_parameters():
        if name not in untuned or untuned[name].shape != weight.shape:
            raise UserError(f"the untuned model has no {name} of this shape: there is nothing between the two")
        ends.append((weight, untuned[name].detach(), weight.detach().clone()))

    @torch.no_grad()
    def put(alpha: float) -> None:
        for weight, before, after in ends:
            weight.copy_(torch.lerp(before, after, alpha).to(dtype))

    def loss(alpha: float) -> float:
        put(alpha)
        return search.loss(model)

    was_training = model.training
    model.eval()
    at_zero = loss(0.0)
    alpha, curve = largest_alpha(lambda alpha: loss(alpha) - at_zero, search.budget, search.steps)
    put(alpha)
    model.train(was_training)
    return {
        "alpha": alpha,
        "budget": search.budget,
        "loss": at_zero,
        "forgetting": dict(curve)[alpha],
        "curve": [{"alpha": each, "forgetting": forgotten} for each, forgotten in curve],
    }


def largest_alpha(
    forgetting: Callable[[float], float], budget: float, steps: int
) -> tuple[float, list[tuple[float, float]]]:
    """(the largest α found whose forgetting is within the budget, all that were tried, in order).

    First a grid from 0 to 1, of which forgetting need not rise steadily; then between the largest that is within the
    budget and its neighbour by halving. At 0 nothing is forgotten.
    """
    curve = {0.0: 0.0} | {step / (steps - 1): forgetting(step / (steps - 1)) for step in range(1, steps)}
    within = max(alpha for alpha, forgotten in curve.items() if forgotten <= budget)
    beyond = next((above for below, above in pairwise(sorted(curve)) if below == within), None)
    for _ in range(_HALVINGS if beyond is not None else 0):
        assert beyond is not None
        middle = (within + beyond) / 2
        curve[middle] = forgetting(middle)
        within, beyond = (middle, beyond) if curve[middle] <= budget else (within, middle)
    return within, sorted(curve.items())
