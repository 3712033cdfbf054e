"""LISA: a few layers at a time, chosen at random, with the embeddings and the head (Pan et al. 2024, algorithm 1).

arXiv:2403.17919. What is in no layer is always trained. The authors' experiments save and load the model anew at each
choice (LMFlow#729), so that a layer's moments do not outlive its turn; here those of a layer that leaves are dropped,
and embeddings, head and a layer that is chosen twice running keep theirs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import PreTrainedModel, TrainerCallback

from fettle.models.layers import layers_of


def chosen_layers(seed: int, turn: int, count: int, total: int) -> list[int]:
    """Which `count` of `total` layers, from 0, are trained in a turn; the same for the same seed and turn."""
    return sorted(np.random.default_rng([seed, turn]).choice(total, count, replace=False).tolist())


class Lisa(TrainerCallback):
    """Before each step makes those `count` layers trainable that are chosen for its turn of `every` steps.

    Gradients and optimizer state exist for no other layers. The optimizer has to have been made of all weights. What is
    chosen depends on `seed` and the number of the step alone: all workers, and a resumed stage, choose the same.
    """

    def __init__(self, model: PreTrainedModel, *, count: int, every: int, seed: int) -> None:
        self.layers = layers_of(model.base_model)
        self.count, self.every, self.seed = count, every, seed
        self.chosen: list[int] | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        chosen = chosen_layers(self.seed, state.global_step // self.every, self.count, len(self.layers))
        if chosen == self.chosen:
            return
        self.chosen = chosen
        for number, layer in enumerate(self.layers):
            layer.requires_grad_(number in chosen)
            for weight in layer.parameters() if number not in chosen else ():
                weight.grad = None
                optimizer.state.pop(weight, None)
