"""`adapter`: train all the weights, or a small adapter beside frozen ones."""

from typing import Literal

from pydantic import Field

from fettle.recipe.spec import Spec


class LoraSpec(Spec):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685)."""

    kind: Literal["lora"]
    """Low-rank."""
    r: int = Field(16, ge=1)
    """Rank of the update."""
    alpha: float = Field(32, gt=0)
    """The update is scaled by alpha / r."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the modules that get an adapter; by default every linear layer but the output head."""


AdapterSpec = LoraSpec | Literal["full"]
