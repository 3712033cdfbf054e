"""What evaluations come to, as the report tells it, and which models can be evaluated."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from fettle.artifact import is_artifact, read_artifact
from fettle.errors import UserError
from fettle.models.family import family_of
from fettle.pipeline.origin import Origin

LONGEST = 2048
"""Tokens of the longest prompt, or record, where nothing says otherwise and the model has so many positions."""


@dataclass(frozen=True)
class Evaluation:
    """How good a model's answers are. prompts_cut: longer ones than it was given; answers_unended: those that
    `max_new_tokens` ended. scores: by name, `Score` as keys. how: what else decides them."""

    model: str
    data: str
    records: int
    prompts_cut: int
    answers_unended: int
    max_new_tokens: int
    seconds: float
    scores: dict[str, dict[str, float]]
    how: dict[str, str]
    kind: str = "generate"


@dataclass(frozen=True)
class Measurement:
    """What a model loses on records. tokens: those that bear loss; records_cut: longer ones than max_length, of which
    the end was not measured; records_empty: with nothing to measure, left out of `records`. scores: by name (`loss`, in
    nats a token, `perplexity`; of retention `forgetting` too), `Score` as keys. how: what else decides them."""

    model: str
    data: str
    records: int
    tokens: int
    records_cut: int
    records_empty: int
    max_length: int
    seconds: float
    scores: dict[str, dict[str, float]]
    how: dict[str, str]
    kind: str = "loss"


@dataclass(frozen=True)
class Comparison:
    """The base a run began from and the last stage's result, on the same records."""

    before: Evaluation | Measurement
    after: Evaluation | Measurement


@dataclass(frozen=True)
class Retained:
    """What a stage's language model has kept. base, parent: names of the untuned model, and of what the stage began
    from. forgetting: its loss above the base's, added: above the parent's, in nats a token, `Score` as keys."""

    stage: str
    base: str
    parent: str
    loss: dict[str, float]
    forgetting: dict[str, float]
    added: dict[str, float]


@dataclass(frozen=True)
class Retention(Comparison):
    """A probe set's loss on the base and after every stage; `after` is the last of them. worst: the stage that added
    most. budget: what `after` may have forgotten, in nats a token, if the recipe says so."""

    stages: tuple[Retained, ...]
    worst: str
    budget: float | None


def check_speaks(origin: Origin, **where: Any) -> None:
    """Raises UserError for what has another head than a language model's, or predicts hidden tokens."""
    folder = origin.adapter or origin.base
    kind = read_artifact(folder).kind if is_artifact(folder) else "model"
    config = json.loads((origin.root / "config.json").read_text(encoding="utf-8"))
    is_headed = any("Classification" in str(name) for name in config.get("architectures") or ())
    if kind in ("reward", "classifier") or is_headed or family_of(origin.root) == "masked":
        raise UserError(f"{folder.name} writes no text", **where, expected="a causal or encoder-decoder language model")
