"""`publish`: where the last stage's result goes once the run's checks are met."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from fettle.recipe.spec import Spec


class ParitySpec(Spec):
    """How far what an endpoint would answer may be from what was trained: fixed prompts through transformers and PEFT
    and through vLLM, an adapter over its base and merged into it."""

    max_logprob_difference: float | None = Field(None, gt=0)
    """Nats that the log-probability of a token may differ by. By default 0.001 where all is computed in float32, 0.2
    where an adapter is merged into 16-bit weights, 0.5 where either side computes in 16 bits, 1 for quantised
    weights."""
    min_agreement: float = Field(0.95, ge=0, le=1)
    """Share of the greedy answers' tokens that have to be the likeliest ones in vLLM too."""


def _as_parity(value: Any) -> Any:
    """`parity: off`, which YAML reads as false."""
    return "off" if value is False else value


class PublishSpec(Spec):
    """The last stage's result as the next version of a name in a registry: an adapter, or full weights."""

    registry: str
    """The registry's folder, as `fettle serve --registry` has it."""
    name: str | None = Field(None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """What it is called there; by default the recipe's name."""
    alias: str = Field("candidate", pattern=r"^[a-z][a-z0-9_-]{0,31}$")
    """The name that points at it from then on: `candidate`, or `production` at once."""
    parity: Annotated[ParitySpec | Literal["off"], BeforeValidator(_as_parity)] = ParitySpec()
    """What has to be the same in vLLM as in training before it is published, or `off`. What transformers itself serves
    (encoder-decoder models) is not compared."""
