"""One thing that was looked at, and what is to be done about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Level = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """level: `bad` where fettle cannot be used as it is, `note` where it can, and something is to be known. fix: the
    next thing to do; each `bad` has one."""

    what: str
    level: Level
    told: str
    fix: str | None = None


def ok(what: str, told: str) -> Finding:
    """Nothing to do."""
    return Finding(what, "ok", told)


def note(what: str, told: str, fix: str | None = None) -> Finding:
    """To be known."""
    return Finding(what, "note", told, fix)


def bad(what: str, told: str, fix: str) -> Finding:
    """To be mended."""
    return Finding(what, "bad", told, fix)
