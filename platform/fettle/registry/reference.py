"""How a published adapter or model is called: `support` (in production), `support@candidate`, `support:7`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fettle.errors import UserError

PRODUCTION = "production"
CANDIDATE = "candidate"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
ALIAS = re.compile(r"[a-z][a-z0-9_-]{0,31}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True)
class Reference:
    """A name with the alias or the version's number that is meant; the other is None."""

    name: str
    alias: str | None = PRODUCTION
    number: int | None = None

    def __str__(self) -> str:
        if self.number is not None:
            return f"{self.name}:{self.number}"
        return self.name if self.alias == PRODUCTION else f"{self.name}@{self.alias}"


def parsed(told: str) -> Reference | None:
    """The reference that is meant, None where it is none."""
    name, colon, number = told.partition(":")
    if colon:
        fits = _NAME.fullmatch(name) and _NUMBER.fullmatch(number)
        return Reference(name, None, int(number)) if fits else None
    name, at, alias = told.partition("@")
    if at and not ALIAS.fullmatch(alias):
        return None
    return Reference(name, alias or PRODUCTION) if _NAME.fullmatch(name) else None


def reference(told: str, field: str = "name") -> Reference:
    """As `parsed`. Raises UserError where it is none."""
    found = parsed(told)
    if found is None:
        raise UserError(
            f"'{told[:80]}' names nothing that is published",
            field=field,
            expected="NAME, NAME@ALIAS or NAME:NUMBER, of letters, digits, '.', '_' and '-'",
        )
    return found


def check_name(told: str, field: str = "name") -> str:
    """Raises UserError unless it is a bare name."""
    expected = "letters, digits, '.', '_' and '-', 64 at most, a letter or digit first"
    return _checked(_NAME, told, "name for what is published", field, expected)


def check_alias(told: str, field: str = "alias") -> str:
    """Raises UserError unless it is an alias."""
    return _checked(ALIAS, told, "alias", field, "small letters, digits, '_' and '-', 32 at most, a letter first")


def _checked(pattern: re.Pattern[str], told: str, what: str, field: str, expected: str) -> str:
    if not pattern.fullmatch(told):
        raise UserError(f"'{told[:80]}' is no {what}", field=field, expected=expected)
    return told
