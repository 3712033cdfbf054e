"""Text that stays text: the names of control tokens in what people write, broken so that none is read as the token."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the driver of a server reads this too, and has no use for transformers' seconds
    from transformers import PreTrainedTokenizerBase

BREAK = "\u200b"
"""A zero-width space: nothing to see, and no token's name goes on past it."""


class Neutral:
    """Breaks the names of `specials` in a text by a zero-width space after their first character.

    Training and serving both do so before the chat template renders, so that they make the same tokens of the same
    messages. Names of one character, or of spaces only, are text to begin with and are left as they are.
    """

    def __init__(self, specials: Iterable[str]) -> None:
        names = {special for special in specials if len(special) > 1 and not special.isspace()}
        self._names = sorted(names, key=lambda name: (-len(name), name))
        tails: dict[str, list[str]] = {}
        for name in self._names:
            tails.setdefault(name[0], []).append(re.escape(name[1:]))
        self._firsts = tuple(tails)
        # Only first characters are consumed, so that names that overlap are all found, and none is left.
        heads = [f"{re.escape(first)}(?={'|'.join(rest)})" for first, rest in tails.items()]
        self._pattern = re.compile("|".join(heads) or r"(?!)")

    def __call__(self, text: str) -> str:
        """The text with every name broken."""
        if not any(first in text for first in self._firsts):
            return text
        return self._pattern.sub(_broken, text)

    def name_in(self, text: str) -> str | None:
        """The first name that the text holds, the longest where several begin there."""
        found = self._pattern.search(text) if any(first in text for first in self._firsts) else None
        if found is None:
            return None
        return next(name for name in self._names if text.startswith(name, found.start()))

    def all(self, value: Any) -> Any:
        """A JSON value with the names in all its texts and keys broken."""
        if isinstance(value, str):
            return self(value)
        if isinstance(value, dict):
            return {self(key): self.all(one) for key, one in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.all(one) for one in value]
        return value


def flagged(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """The tokens a tokenizer calls special. Tokens that were only added, such as `<think>`, are none."""
    added = tokenizer.added_tokens_decoder.values()
    return {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}


def _broken(found: re.Match[str]) -> str:
    return found.group() + BREAK
