"""What tells one kind of stage from another: the model it trains, its batches and its loss."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from transformers import PreTrainedModel

from fettle.data.batches import Encoded
from fettle.models.stored import Stored

HELDOUT = -1


class Task(Protocol):
    """One per stage and worker. What all kinds share (data, steps, checkpoints, the artifact) is in stage.py."""

    @property
    def kind(self) -> Literal["model", "reward", "classifier"]:
        """What the artifact is, where it is no adapter."""
        ...

    @property
    def unit(self) -> str:
        """What the loss is a mean over: `token`, `pair`, `record`."""
        ...

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The model in `base`, with the head this task needs."""
        ...

    def prepare(self, trainer: Any) -> None:
        """Called once, before the first step, with the model in its place; all workers call it together."""
        ...

    def collate(self, examples: Sequence[Encoded], step: int = HELDOUT) -> dict[str, torch.Tensor]:
        """A micro-batch, mostly `input_ids`, `position_ids` and `labels`, of some examples; none give padding alone.

        As many of `labels` differ from IGNORE as the loss has terms. step: the optimizer step it is for, from 0 over
        the whole stage, so that noise can be another one each time and yet the same for any workers and after a resume;
        HELDOUT where it is measured on.
        """
        ...

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the loss over the terms of a micro-batch, a scalar with a gradient even where there are none."""
        ...

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sums over the terms of a micro-batch, `loss` among them; their means are told of the held-out examples."""
        ...
