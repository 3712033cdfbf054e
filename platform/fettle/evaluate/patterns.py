"""A user's regular expression looked for in answers, each within a time of its own."""

from __future__ import annotations

from collections.abc import Sequence

import regex

SECONDS = 0.5
"""For one text: an expression that goes back and forth, such as `(a|aa)+$`, may take longer than a training."""


def found_in(pattern: str, texts: Sequence[str]) -> list[bool | None]:
    """Of each text whether the pattern is found anywhere in it; None where that is not known after `SECONDS`."""
    return [_is_found(pattern, text) for text in texts]


def _is_found(pattern: str, text: str) -> bool | None:
    try:
        return regex.search(pattern, text, timeout=SECONDS) is not None
    except TimeoutError:
        return None
