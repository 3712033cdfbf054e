"""`evaluate`: what judges the answers of a run's result beside another model's, and tasks of lm-evaluation-harness."""

from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fettle.recipe.data import Source
from fettle.recipe.spec import Spec, check_bounds

PARAMETERS: dict[str, Any] = {"temperature": 0, "max_tokens": 1024}
"""What a judge is asked with beside its model and the messages, where a recipe says nothing."""


class AnsweredSpec(Spec):
    """Prompts that the last stage's result and another model answer, whose answers are then compared."""

    kind: Literal["reward", "judge"]
    """Who compares them."""
    data: Source
    """Held-out prompts; answers beside them are not looked at."""
    against: str = "base"
    """The other model: `base`, an earlier stage, the folder of a model or an adapter, or what `publish.registry` has
    (`support@production`)."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many records."""
    max_new_tokens: int = Field(128, ge=1)
    """Tokens of the longest answer."""
    max_length: int | None = Field(None, ge=8)
    """Tokens of the longest prompt, as of `generate`."""
    temperature: float = Field(0.0, ge=0)
    """0: greedy answers; above: drawn from the distribution at this temperature, by the recipe's seed."""


class ScoredSpec(AnsweredSpec):
    """Answers that a reward model scores: the mean, and on how many prompts the result's is above the other's."""

    kind: Literal["reward"]
    """reward: scores of a reward model, and the win rate."""
    model: str
    """A reward stage of this recipe, or a reward model's folder."""
    at_least: dict[str, float] = Field({})
    """The gate: by score (score, win_rate), what the result has to reach."""
    gain: dict[str, float] = Field({})
    """The gate: how much the result's `score` has to be above the other's."""

    @model_validator(mode="after")
    def _bounds_what_is_measured(self) -> "ScoredSpec":
        check_bounds(self, ("at_least",), ("score", "win_rate"))
        check_bounds(self, ("gain",), ("score",))
        return self


class JudgeSpec(AnsweredSpec):
    """Answers that a language model compares, in both orders: on how many prompts the result's is the better one."""

    kind: Literal["judge"]
    """judge: verdicts of a language model behind an OpenAI-compatible endpoint, and the win rate."""
    url: str
    """The endpoint, up to and with its version: `http://127.0.0.1:8000/v1`."""
    model: str
    """What the judge is called there."""
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """The environment variable that holds a key, which is sent as a bearer token and written nowhere."""
    criteria: str = "helpfulness, relevance, accuracy, and how well it follows what is asked"
    """What makes an answer the better one, as the judge is told."""
    parameters: dict[str, Any] = Field(PARAMETERS)
    """What else is sent with each question."""
    concurrency: int = Field(8, ge=1, le=256)
    """Questions under way at once."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds after which a try has failed."""
    tries: int = Field(5, ge=1)
    """How often a question is asked before the run stops; what was answered until then is kept."""
    at_least: dict[str, float] = Field({})
    """The gate: the `win_rate` that the result has to reach."""

    @model_validator(mode="after")
    def _bounds_what_is_measured(self) -> "JudgeSpec":
        check_bounds(self, ("at_least",), ("win_rate",))
        return self

    @field_validator("parameters")
    @classmethod
    def _are_no_others(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        for key in ("model", "messages", "stream", "n"):
            if key in parameters:
                raise ValueError(f"'{key}' is not to be said: the judge is asked for one whole answer each time")
        return parameters

    @field_validator("url")
    @classmethod
    def _is_an_address(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            is_right = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
        except ValueError:
            is_right = False
        if not is_right:
            raise ValueError("an address begins with http:// or https://, and ends with its version, such as /v1")
        if parts.username is not None or parts.password is not None:
            raise ValueError("no names and passwords in it: a key is an environment variable's (key_env)")
        return url.rstrip("/").removesuffix("/chat/completions")


class HarnessSpec(Spec):
    """Tasks of EleutherAI's lm-evaluation-harness, from files that lie here, which the base and the last stage's result
    are put to on a vLLM engine."""

    kind: Literal["harness"]
    """harness: tasks as lm-evaluation-harness has them, in YAML."""
    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks' YAML files, and folders of them. The data files they name are looked for beside them."""
    fewshot: int | None = Field(None, ge=0)
    """Examples before each question, in place of what the tasks say."""
    limit: int | None = Field(None, ge=1)
    """Only the first so many documents of each task."""
    chat: bool = False
    """Whether questions are put through the model's chat template, as a user's turn."""
    allow_code: bool = False
    """Whether tasks may run code of their own: `!function`, data sets and metrics of other kinds than the usual."""
    at_least: dict[str, float] = Field({})
    """The gate: by score (`TASK.METRIC`, such as `trains.acc`), what the result has to reach."""
    at_most: dict[str, float] = Field({})
    """The gate: by score, how high the result's may be (of perplexities)."""
    gain: dict[str, float] = Field({})
    """The gate: by score, how much better than the base the result has to be."""

    @property
    def bounded(self) -> tuple[str, ...]:
        """The scores that have to be there."""
        return tuple(dict.fromkeys((*self.at_least, *self.at_most, *self.gain)))


JUDGED_SPECS: dict[str, type[Spec]] = {"reward": ScoredSpec, "judge": JudgeSpec, "harness": HarnessSpec}
