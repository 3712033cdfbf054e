"""What people begin with, each by the stage that learns it and by how one sees whether it was worth it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from fettle.errors import UserError, did_you_mean
from fettle.recipe.evaluate import SCORES, LossName, MetricName


@dataclass(frozen=True)
class Task:
    """kind: of the stage. takes: kinds of records. metrics: of what the model answers; none where its loss tells. gain:
    the goal where the user has none: a score, and how much better than the base's it has to be."""

    kind: Literal["sft", "pretrain"]
    takes: tuple[str, ...]
    metrics: tuple[MetricName, ...]
    gain: tuple[str, float]

    @property
    def scores(self) -> tuple[str, ...]:
        """Those that a goal can bound."""
        if not self.metrics:
            return get_args(LossName)
        return tuple(score for metric, scores in SCORES.items() if metric != "regex" for score in scores)

    def metrics_for(self, bounds: Mapping[str, float]) -> list[MetricName]:
        """Its own metrics, and those that have the scores of `bounds`."""
        others = [metric for metric, scores in SCORES.items() if set(scores) & set(bounds)]
        return list(dict.fromkeys([*self.metrics, *others]))


_ASKED = ("messages", "prompt_completion")
TASKS: dict[str, Task] = {
    "chat": Task("sft", _ASKED, ("rouge",), ("rouge1", 0.05)),
    "answer": Task("sft", _ASKED, ("exact_match", "f1"), ("f1", 0.1)),
    "summarise": Task("sft", _ASKED, ("rouge",), ("rouge1", 0.05)),
    "extract": Task("sft", _ASKED, ("exact_match", "f1"), ("f1", 0.1)),
    "classify": Task("sft", ("label", *_ASKED), ("accuracy",), ("accuracy", 0.1)),
    "domain": Task("pretrain", ("text",), (), ("loss", 0.1)),
}


def task_of(name: str) -> Task:
    """The task of that name. Raises UserError where there is none."""
    if name not in TASKS:
        raise UserError(f"no task '{name}'{did_you_mean(name, TASKS)}", field="--task", expected=", ".join(TASKS))
    return TASKS[name]
