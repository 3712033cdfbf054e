"""`evaluate`: what the base and the last stage's result are compared by."""

from typing import Literal

from pydantic import Field

from fettle.recipe.data import Source
from fettle.recipe.spec import Spec

MetricName = Literal["rouge", "exact_match"]


class EvaluateSpec(Spec):
    """Prompts that the base and the last stage's result answer, and how their answers are judged."""

    kind: Literal["generate"]
    """generate: greedy answers, compared with those of the records."""
    data: Source
    """Held-out questions with answers."""
    metrics: tuple[MetricName, ...] = Field(("rouge",), min_length=1)
    """rouge: ROUGE-1, -2 and -L (F-measure, words cut to their stems); exact_match: the share of answers that are the
    very same."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many records."""
    max_new_tokens: int = Field(128, ge=1)
    """Tokens of the longest answer."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of the longest prompt, longer ones are cut and counted; by default what the model's positions leave, at
    most 2048."""
