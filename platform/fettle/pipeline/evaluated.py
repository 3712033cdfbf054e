"""What evaluations come to, as the report tells it, and which models can be evaluated."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
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
    `max_new_tokens` ended. scores: by name, `Score` as keys. how: what else decides them. shots: worked examples before
    each prompt; prompts_with_fewer: prompts that left room for fewer. file: its answers', in a run's `evaluations/`."""

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
    shots: int = 0
    prompts_with_fewer: int = 0
    file: str = ""

    @property
    def examples(self) -> str:
        """`2 examples`."""
        return f"{self.shots} example{'' if self.shots == 1 else 's'}"


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
class TaskScores:
    """What a model comes to in tasks of lm-evaluation-harness. records: documents of all tasks; requests_cut: longer
    ones than the model can read, of which the beginning was left out. scores: by name (`TASK.METRIC`), `Score` as keys.
    falling: those of them of which less is better. how: what else decides them."""

    model: str
    data: str
    records: int
    requests_cut: int
    seconds: float
    scores: dict[str, dict[str, float]]
    falling: tuple[str, ...]
    how: dict[str, str]
    kind: str = "harness"


@dataclass(frozen=True)
class Comparison:
    """The base a run began from and the last stage's result, on the same records. few_shot: the base after worked
    examples, where there are some."""

    before: Evaluation | Measurement | TaskScores
    after: Evaluation | Measurement | TaskScores
    few_shot: Evaluation | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class Preferred(Comparison):
    """Two models' answers to the same prompts, compared one by one. by: who compares them. counts: prompts by how it
    went for the result (`won`, `tied`, `lost`); of a judge also how many pairs were `same`, `inconsistent` (tied: it
    changed its mind with the order) and `unparsed` (left out: it gave no verdict)."""

    by: str
    counts: dict[str, int]


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
