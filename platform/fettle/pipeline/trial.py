"""One way to make a step, of which it is measured how long it takes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from fettle.models.attention import Attention
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import Precision


@dataclass(frozen=True)
class Trial:
    """A way to make a step. config: `trace.config_text`. lengths: tokens of a worker's records in a step, which fall to
    `accumulate` micro-batches. loss: share of their tokens that bears loss. threads: of a worker without a GPU."""

    config: str
    adapter: AdapterSpec
    lengths: tuple[int, ...]
    loss: float
    max_length: int
    on_gpu: bool
    threads: int
    precision: Precision
    packing: bool
    checkpointing: bool
    attention: Attention | None
    accumulate: int


def as_text(trial: Trial) -> str:
    """In a line."""
    return json.dumps(asdict(trial) | {"adapter": trial.adapter.model_dump_json()})


def from_text(text: str) -> Trial:
    """The trial of `as_text`."""
    told = json.loads(text)
    adapter, lengths = AdapterSpec.model_validate_json(told["adapter"]), tuple(told["lengths"])
    return Trial(**told | {"adapter": adapter, "lengths": lengths})
