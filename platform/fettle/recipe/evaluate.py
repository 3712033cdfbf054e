"""`evaluate`: what the base and the stages' results are compared by."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, model_validator

from fettle.recipe.data import Source
from fettle.recipe.judged import JUDGED_SPECS, HarnessSpec, JudgeSpec, ScoredSpec
from fettle.recipe.spec import Spec, check_bounds

MetricName = Literal["rouge", "exact_match", "accuracy", "f1", "regex"]
LossName = Literal["loss", "perplexity"]
SCORES: dict[MetricName, tuple[str, ...]] = {
    "rouge": ("rouge1", "rouge2", "rougeL"),
    "exact_match": ("exact_match",),
    "accuracy": ("accuracy",),
    "f1": ("f1",),
    "regex": ("regex",),
}


class GenerateSpec(Spec):
    """Prompts that the base and the last stage's result answer, and how their answers are judged."""

    kind: Literal["generate"]
    """generate: greedy answers, compared with those of the records."""
    data: Source
    """Held-out questions with answers."""
    metrics: tuple[MetricName, ...] = Field(("rouge",), min_length=1)
    """rouge: ROUGE-1, -2 and -L (F-measure, words cut to their stems); exact_match: the share of answers that are the
    very same; accuracy: that are the same but for case, punctuation, articles and white space; f1: the F-measure of the
    words, as SQuAD has it; regex: the share of answers in which `pattern` is found."""
    pattern: str | None = None
    """regex: a regular expression, looked for anywhere in the answer."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many records."""
    max_new_tokens: int = Field(128, ge=1)
    """Tokens of the longest answer."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of the longest prompt, longer ones are cut and counted; by default what the model's positions leave, at
    most 2048."""
    few_shot: int = Field(2, ge=0, le=64)
    """As a control the base answers once more, after so many worked examples; 0 for none."""
    shots: Source | None = None
    """Where the examples come from; by default from the first stage that learns answers."""
    at_least: dict[str, float] = Field({})
    """The gate: by score (rouge1, rouge2, rougeL, exact_match, accuracy, f1, regex), what the result has to reach."""
    gain: dict[str, float] = Field({})
    """The gate: by score, how much the result has to be above the base."""

    def settings(self) -> dict[str, Any]:
        """What decides a model's answers to the same prompts, and their scores."""
        others = {"data", "few_shot", "shots", "at_least", "gain"}
        told = self.model_dump(mode="json", exclude=others)
        return told if self.pattern is not None else {key: told[key] for key in told if key != "pattern"}

    @model_validator(mode="after")
    def _bounds_what_is_measured(self) -> "GenerateSpec":
        measured = [score for metric in self.metrics for score in SCORES[metric]]
        check_bounds(self, ("at_least", "gain"), measured)
        return self

    @model_validator(mode="after")
    def _examples_are_wanted(self) -> "GenerateSpec":
        if self.shots is not None and not self.few_shot:
            raise ValueError("shots has no effect with few_shot: 0")
        return self

    @model_validator(mode="after")
    def _pattern_is_one(self) -> "GenerateSpec":
        if (self.pattern is not None) != ("regex" in self.metrics):
            raise ValueError("metrics: regex and pattern: EXPRESSION go together")
        if self.pattern is not None:
            import regex  # which takes longer to import than a recipe to read

            try:
                regex.compile(self.pattern)
            except regex.error as error:
                raise ValueError(f"pattern: {error}") from None
        return self


class LossSpec(Spec):
    """Records on which the loss of the base and of the last stage's result is measured, token for token as a stage
    measures its held-out records."""

    kind: Literal["loss"]
    """loss: in nats per loss-bearing token, and perplexity, which is its exponential."""
    data: Source
    """Held-out records: questions with answers, of which the answers bear loss; or raw text, all of which does."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many records."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of the longest record: longer ones are cut, raw text is split, as in training; by default the model's
    positions, at most 2048."""
    at_most: dict[str, float] = Field({})
    """The gate: by score (loss, perplexity), how high the result's may be."""
    gain: dict[str, float] = Field({})
    """The gate: by score, how much better than the base the result has to be: here, how much lower."""

    @model_validator(mode="after")
    def _bounds_what_is_measured(self) -> "LossSpec":
        check_bounds(self, ("at_most", "gain"), get_args(LossName))
        return self


class RetentionSpec(Spec):
    """Records of what the base could do already, on which its loss and that of every stage's language model are
    measured: by how much each is above the base's has been forgotten."""

    kind: Literal["retention"]
    """retention: the loss after every stage that yields a language model, against the base's."""
    data: Source
    """The probe set: questions with answers, or raw text, that no stage learns from."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many records."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of the longest record, as of `loss`."""
    budget: float | None = Field(None, ge=0)
    """The gate: how many nats a token the last language model may have forgotten; without it they are only told."""


EvaluateSpec = Annotated[
    GenerateSpec | LossSpec | RetentionSpec | ScoredSpec | JudgeSpec | HarnessSpec, Field(discriminator="kind")
]
EVALUATE_SPECS: dict[str, type[Spec]] = {
    "generate": GenerateSpec,
    "loss": LossSpec,
    "retention": RetentionSpec,
    **JUDGED_SPECS,
}
