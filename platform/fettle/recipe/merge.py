"""`kind: merge`: adapters into full weights."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from fettle.recipe.data import Source
from fettle.recipe.spec import Spec
from fettle.recipe.stages import StageBase

Method = Literal["linear", "ties", "dare_linear", "dare_ties"]
DEFAULT_DENSITY = 0.5


class WeightedAdapter(Spec):
    """One of several adapters that are merged."""

    from_: str = Field(alias="from")
    """An earlier stage, or an adapter's folder."""
    weight: float = 1.0
    """What its update is multiplied by; a negative one takes away what it learned."""

    @model_validator(mode="after")
    def _counts(self) -> "WeightedAdapter":
        if self.weight == 0:
            raise ValueError("an adapter of weight 0 has no effect; remove it")
        return self


def _as_adapters(value: object) -> object:
    """`adapters: [legal, polite]` is as good as `[{from: legal}, {from: polite}]`."""
    if not isinstance(value, (list, tuple)):
        return value
    return tuple({"from": item} if isinstance(item, str) else item for item in value)


class InterpolateSpec(Spec):
    """Weights between the untuned model's and the tuned one's, as near to the tuned ones as a budget of forgetting
    allows (WiSE-FT: Wortsman et al. 2022, arXiv:2109.01903)."""

    data: Source
    """The probe set, as of `evaluate`'s retention: what the untuned model could do already."""
    budget: float = Field(ge=0)
    """Nats a token that may be forgotten of it."""
    steps: int = Field(11, ge=2, le=101)
    """Mixtures that are measured, both ends included, before it is looked more closely between two of them."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many records."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of the longest record, as of `evaluate`'s retention."""


class MergeStage(StageBase):
    """Adapters merged into the base they were trained on: full weights, from which any stage may begin. `from` names
    one, `adapters` several of the same base. With `interpolate` what it begins from may be full weights too."""

    kind: Literal["merge"]
    """Adapters into full weights."""
    adapters: Annotated[tuple[WeightedAdapter, ...] | None, BeforeValidator(_as_adapters)] = Field(None, min_length=2)
    """Several adapters, with weights."""
    method: Method | None = None
    """How several are combined: linear (the default), ties, dare_linear, dare_ties."""
    density: float | None = Field(None, gt=0, le=1)
    """ties, dare_linear, dare_ties: the share of each adapter's update that is kept; 0.5 by default."""
    interpolate: InterpolateSpec | None = None
    """Against forgetting: how far the untuned weights go towards the tuned ones is searched for."""

    @model_validator(mode="after")
    def _keys_that_have_an_effect(self) -> "MergeStage":
        if self.adapters is None:
            for key in ("method", "density"):
                if getattr(self, key) is not None:
                    raise ValueError(f"{key} has no effect with one adapter; it belongs to a list of adapters")
        elif self.from_ is not None:
            raise ValueError("give either from (one adapter) or adapters (several)")
        check_density(self.method or "linear", self.density)
        return self


def check_density(method: Method, density: float | None) -> None:
    """Raises ValueError where a density changes nothing in what the method computes."""
    if density is not None and method == "linear":
        raise ValueError("density has no effect with method: linear")
    if density == 1 and method.startswith("dare"):
        plain = "linear" if method == "dare_linear" else "ties"
        raise ValueError(f"density 1 drops nothing: method: {method} is then method: {plain}")
