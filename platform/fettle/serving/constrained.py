"""Answers that are to follow a schema, an expression or a grammar: where the engine cannot, that is the request's
mistake, and vLLM says it was the server's (0.32: it finds out only as it compiles)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fettle.serving.failures import failure
from fettle.serving.grammars import FIELDS

_FAILED, _EVENT = 500, b'data: {"error"'


def is_constrained(wanted: dict[str, Any]) -> bool:
    """Whether a request brings something that its answer is to follow."""
    return any(wanted.get(field) for field in FIELDS)


class Constrained:
    """`app`, asked by such a request. is_dead: whether the engine is, whose failure it then was."""

    def __init__(self, app: ASGIApp, is_dead: Callable[[], bool]) -> None:
        self.app, self.is_dead = app, is_dead

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal = failure(400, f"the engine cannot follow what the answer is to follow ({', '.join(FIELDS)})")
        is_refused = False

        async def send_mended(message: Message) -> None:
            nonlocal is_refused
            if message["type"] == "http.response.start" and message["status"] == _FAILED and not self.is_dead():
                is_refused = True
                await refusal(scope, receive, send)
            if is_refused:
                return
            body = message.get("body", b"")
            if body.startswith(_EVENT) and _code(body) == _FAILED and not self.is_dead():
                message = {**message, "body": b"data: " + bytes(refusal.body) + b"\n\n"}
            await send(message)

        await self.app(scope, receive, send_mended)


def _code(event: bytes) -> Any:
    try:
        return json.loads(event.removeprefix(b"data: "))["error"]["code"]
    except (ValueError, KeyError, TypeError):
        return None
