"""What answers say in `system_fingerprint`: vLLM has one for all models, we have each version's own."""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

ANSWERED_BY: ContextVar[str | None] = ContextVar("answered_by", default=None)
"""Set around a request; None leaves vLLM's own."""


def fingerprint_each(serving: Any) -> None:
    """Has one of vLLM's serving objects stamp its answers with ANSWERED_BY, where that is set."""
    own, kind = serving.system_fingerprint, type(serving)

    def fingerprint(_: Any) -> str | None:
        return ANSWERED_BY.get() or own

    # A property goes before the attribute that the object has.
    stamped = property(fingerprint, lambda _self, _value: None)
    serving.__class__ = type(kind.__name__, (kind,), {"system_fingerprint": stamped})
