"""`rewards`: what answers are rewarded for; a key the kind has no use for is refused."""

import re
from collections.abc import Sequence
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from fettle.recipe.spec import Spec, check_keys

_SOURCES = ("stage", "function", "builtin", "url")
_KEYS: dict[str, dict[str, Any]] = {
    "stage": {},
    "function": {},
    "url": {"timeout_s": 30.0, "tries": 3, "key_env": None},
    "exact_number": {"column": "answer"},
    "regex": {"pattern": None},
    "format": {"tags": ("think", "answer")},
    "length": {"max_tokens": None, "cushion": None},
    "repetition": {"n": 3},
}
_NEEDED = {"regex": "pattern", "length": "max_tokens"}
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")


class RewardSpec(Spec):
    """One part of the reward: `stage`, `function`, `builtin` or `url` says who gives it. Keys without a default of
    their own belong to the kinds they name."""

    stage: str | None = None
    """An earlier reward stage, or a reward model's folder: the score of the answer."""
    function: str | None = Field(None, pattern=r"^.+\.py:[A-Za-z_][A-Za-z0-9_]*$")
    """`file.py:name`, a function `f(prompts, completions, **columns) -> list[float]`: text for prompts that are text,
    messages for messages; columns are those of the records, a list each."""
    builtin: Literal["exact_number", "regex", "format", "length", "repetition"] | None = None
    """exact_number: 1 where the answer's number is that of a column (after `####` if it is there, else the last one).
    regex: 1 where the pattern is found. format: 1 where the answer is these tags, one after the other. length: 0, and
    less down to -1 for answers that are too long. repetition: minus the share of repeated n-grams."""
    url: str | None = Field(None, pattern=r"^https?://[^/].*$")
    """A service: POST `{"prompts": […], "completions": […], "columns": {…}}` is answered by `{"scores": […]}`."""
    name: str | None = None
    """What it is called in records and charts; by default after what it is."""
    weight: float = 1.0
    """What it is multiplied by in the sum."""
    clip: tuple[float, float] | None = None
    """Lowest and highest value that counts."""
    whiten: bool = False
    """Made to have mean 0 and variance 1 over each iteration, after the clip."""
    column: str | None = None
    """exact_number: the column of the right answer; `answer` by default."""
    pattern: str | None = None
    """regex: Python's regular expression, looked for anywhere in the answer."""
    tags: tuple[str, ...] | None = Field(None, min_length=1)
    """format: names of the tags, in order; think, answer by default."""
    max_tokens: int | None = Field(None, ge=1)
    """length: tokens from which an answer is given -1."""
    cushion: int | None = Field(None, ge=1)
    """length: tokens before that over which it falls from 0 to -1; a fifth of max_tokens by default."""
    n: int | None = Field(None, ge=1)
    """repetition: tokens of an n-gram; 3 by default."""
    timeout_s: float | None = Field(None, gt=0)
    """url: seconds after which a try has failed; 30 by default."""
    tries: int | None = Field(None, ge=1)
    """url: how often to ask before the run stops; 3 by default."""
    key_env: str | None = Field(None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    """url: the environment variable that holds a key, which is sent as a bearer token."""

    @property
    def source(self) -> str:
        """Which of the four says who gives it."""
        return next(name for name in _SOURCES if getattr(self, name) is not None)

    @property
    def kind(self) -> str:
        """The built-in's name, or the source."""
        return self.builtin or self.source

    @property
    def part(self) -> str:
        """What it is called."""
        if self.name is not None:
            return self.name
        if self.function is not None:
            return self.function.rpartition(":")[2]
        if self.url is not None:
            return str(urlsplit(self.url).hostname)
        if self.stage is not None:
            return self.stage.rstrip("/").rpartition("/")[2]
        return str(self.builtin)

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_kind(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        kind = value.get("builtin") or ("url" if value.get("url") is not None else None)
        filled = {**_KEYS.get(str(kind), {}), **value}
        limit = filled.get("max_tokens")
        if kind == "length" and filled.get("cushion") is None and isinstance(limit, int):
            filled["cushion"] = max(1, limit // 5)
        return filled

    @model_validator(mode="after")
    def _one_source_and_its_keys(self) -> "RewardSpec":
        given = [name for name in _SOURCES if getattr(self, name) is not None]
        if len(given) != 1:
            said = f"not {' and '.join(given)}" if given else "and none is given"
            raise ValueError(f"a reward is one of stage, function, builtin, url, {said}")
        check_keys(self, _KEYS)
        needed = _NEEDED.get(self.kind)
        if needed is not None and getattr(self, needed) is None:
            raise ValueError(f"{self.kind} needs {needed}")
        if self.weight == 0:
            raise ValueError("a reward of weight 0 has no effect; remove it")
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ValueError(f"clip: the lowest value comes first, and {self.clip[0]:g} is not below {self.clip[1]:g}")
        if self.max_tokens is not None and self.cushion is not None and self.cushion > self.max_tokens:
            raise ValueError(f"cushion {self.cushion} is more than max_tokens {self.max_tokens}")
        return self

    @field_validator("name")
    @classmethod
    def _is_a_name(cls, name: str | None) -> str | None:
        if name is not None and not _NAME.match(name):
            raise ValueError("letters, digits, dot, dash and underscore make a name, at most 64 of them")
        return name

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str | None) -> str | None:
        try:
            re.compile(pattern or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


def check_parts(rewards: Sequence[RewardSpec]) -> None:
    """Raises ValueError where two rewards have one name."""
    seen: set[str] = set()
    for reward in rewards:
        if reward.part in seen:
            raise ValueError(f"two rewards are called {reward.part}; give one of them a name of its own (name: …)")
        seen.add(reward.part)
