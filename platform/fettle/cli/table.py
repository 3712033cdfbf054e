"""Rows of text in columns."""

from __future__ import annotations

from collections.abc import Sequence


def lines_of(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """One line a row under a line of heads, columns as wide as they need; none for no rows."""
    if not rows:
        return []
    told = [heads, *rows]
    widths = [max(len(row[place]) for row in told) for place in range(len(heads))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in told]
