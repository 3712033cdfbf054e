"""The door of the endpoint: only these routes, whole JSON objects, an answer to everything. Pure ASGI."""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fettle.serving.answers import CHAT, TEMPLATE
from fettle.serving.engines import Engines, Unavailable
from fettle.serving.failures import NOT_FOUND, UNAVAILABLE, failure
from fettle.serving.question import Part, Question

logger = logging.getLogger(__name__)

ROUTES = {
    ("POST", CHAT),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/health"),
    ("GET", "/ready"),
}
MAX_BODY_BYTES = 8 << 20
_WAIT_S = 5
_CUT = "the replica that was answering has gone; what came before is all there is"


class Gate:
    """Asks `engines` what it does not answer itself. Any bearer token is taken. Errors have OpenAI's shape: {"error":
    {"message", "type", "param", "code"}}."""

    def __init__(self, engines: Engines) -> None:
        self._engines = engines

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        if scope["type"] != "http":
            return None
        method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
        if (method, path) not in ROUTES:
            known = ", ".join(f"{verb} {route}" for verb, route in sorted(ROUTES))
            answer: ASGIApp = failure(404, f"{method} {path} is not served here; there is {known}", kind=NOT_FOUND)
        elif path == "/health":
            answer = JSONResponse({"status": "alive"})
        elif path == "/ready":
            answer = await self._ready()
        elif path == "/v1/models":
            answer = await self._models()
        else:
            answer = await self._complete(path, receive)
        await answer(scope, receive, send)

    async def _ready(self) -> JSONResponse:
        cards = await self._engines.cards()
        if cards is None:
            headers = {"Retry-After": str(_WAIT_S)}
            return JSONResponse({"status": "starting"}, status_code=503, headers=headers)
        return JSONResponse({"status": "ready", "models": [card["id"] for card in cards]})

    async def _models(self) -> JSONResponse:
        cards = await self._engines.cards()
        return _unavailable() if cards is None else JSONResponse({"object": "list", "data": cards})

    async def _complete(self, path: str, receive: Receive) -> ASGIApp:
        """The engine's answer to the checked body, or the error that the request earns."""
        body = await _body(receive)
        if body is None:
            return failure(413, f"the request's body is over {MAX_BODY_BYTES} bytes")
        try:
            wanted = json.loads(body)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            return failure(400, f"the request's body is not valid JSON ({error})")
        except RecursionError:
            return failure(400, "the request's body is nested too deeply")
        if not isinstance(wanted, dict):
            return failure(400, "the request's body must be a JSON object")
        extra = wanted.get("chat_template_kwargs")
        if TEMPLATE in wanted or (isinstance(extra, dict) and TEMPLATE in extra):
            return failure(400, "the chat template is the model's; a request cannot bring one", param=TEMPLATE)
        try:
            head, parts = await self._engines.ask(Question(path, wanted, uuid.uuid4().hex))
        except Unavailable:
            return _unavailable()
        return _Given(head, parts)


class _Given:
    """An answer, part by part."""

    def __init__(self, head: Part, parts: AsyncIterator[Part]) -> None:
        self.head, self.parts = head, parts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = list(self.head.headers)
        await send({"type": "http.response.start", "status": self.head.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.head.body, "more_body": self.head.more})
        if not self.head.more:
            return
        try:
            async for part in self.parts:
                await send({"type": "http.response.body", "body": part.body, "more_body": part.more})
        except Exception:
            if not any(b"text/event-stream" in value for _, value in headers):
                raise
            logger.exception("an answer was cut")
            told: dict[str, Any] = {"message": _CUT, "type": UNAVAILABLE, "param": None, "code": 503}
            event = f"data: {json.dumps({'error': told})}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": False})


def _unavailable() -> JSONResponse:
    why = "no engine is there to answer: the model is being loaded, or its replica is being replaced"
    return failure(503, why, kind=UNAVAILABLE, retry_after_s=_WAIT_S)


async def _body(receive: Receive) -> bytes | None:
    """The whole body, or None as soon as it is over the limit."""
    parts, size = [], 0
    while True:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > MAX_BODY_BYTES:
            return None
        if not message.get("more_body", False):
            return b"".join(parts)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Ray Serve starts and stops its apps."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
