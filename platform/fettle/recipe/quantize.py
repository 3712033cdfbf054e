"""`kind: quantize`: weights rounded to 8 or 4 bits, for serving."""

from typing import Literal

from pydantic import model_validator

from fettle.recipe.stages import StageBase

GROUPS = (128, 64, 32)
"""Weights that may share a scale: what vLLM's kernels have, on CPU and GPU."""


class QuantizeStage(StageBase):
    """Weights of the linear layers rounded to integers, for serving alone: no stage begins from the result. From an
    adapter, it is merged into its base first."""

    kind: Literal["quantize"]
    """Weights rounded to 8 or 4 bits, for serving."""
    bits: Literal[8, 4] = 8
    """Of each weight. 8: one scale a row, and what goes into a layer is rounded to 8 bits as well, token by token.
    4: the weights alone."""
    group: Literal[32, 64, 128] | None = None
    """bits 4: neighbouring weights that share a scale; 128 by default. Fewer are closer to the full weights and take
    more room."""

    @model_validator(mode="after")
    def _group_has_an_effect(self) -> "QuantizeStage":
        if self.bits == 8 and self.group is not None:
            raise ValueError("group has no effect with bits: 8, which has a scale for each row; it belongs to bits: 4")
        return self

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale; None where a whole row does."""
        return (self.group or GROUPS[0]) if self.bits == 4 else None
