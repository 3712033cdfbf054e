"""One request at the ingress, from its body to its last byte: counted, timed, logged, and handed on."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from fettle.serving.failures import UNAVAILABLE
from fettle.serving.metrics import RequestMetrics
from fettle.serving.question import VERSION, Part
from fettle.serving.usage import Usage

logger = logging.getLogger(__name__)
access_log = logging.getLogger("fettle.access")

UNKNOWN = "unknown"
_CUT = "the replica that was answering has gone; what came before is all there is"
_CLIENT_LEFT = 499

Ended = Callable[["Exchange"], None]


class Exchange:
    """id: as the answer's x-request-id, which Ray Serve's proxy gives. key: its name, empty where there are none.
    model: as it was asked for. Once it has ended: status, version, and seconds until the answer began (first_s) and had
    ended (whole_s)."""

    def __init__(self, id: str, metrics: RequestMetrics | None) -> None:
        self.id, self._metrics = id, metrics
        self.key, self.model, self.usage = "", "", Usage(True)
        self._began = time.monotonic()
        self.status, self.version = _CLIENT_LEFT, ""
        self.first_s: float | None = None
        self.whole_s = 0.0
        if metrics is not None:
            metrics.begin()

    @property
    def completion_tokens(self) -> int:
        """As the answer told, else the events of its stream."""
        return self.usage.completion or self.usage.pieces

    @property
    def tokens(self) -> int:
        """Read and written."""
        return self.usage.prompt + self.completion_tokens

    def refused(self, response: JSONResponse) -> JSONResponse:
        """The end of one that no engine was asked, and what its caller is told."""
        self.status = response.status_code
        self.end()
        return response

    async def give(self, head: Part, parts: AsyncIterator[Part], send: Send) -> None:
        """The answer to the caller."""
        self.first_s = time.monotonic() - self._began
        headers = list(head.headers)
        self.version = next((value.decode() for name, value in headers if name == VERSION), "")
        is_stream = any(name == b"content-type" and b"text/event-stream" in value for name, value in headers)
        body = self.usage.read(head.body, is_stream)
        await send({"type": "http.response.start", "status": head.status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": head.more})
        try:
            if head.more:
                async for part in parts:
                    body = self.usage.read(part.body, is_stream)
                    await send({"type": "http.response.body", "body": body, "more_body": part.more})
            self.status = head.status or 0
        except Exception:
            self.status = 502
            if not is_stream:
                raise
            logger.exception("%s: an answer was cut", self.id)
            told: dict[str, Any] = {"message": _CUT, "type": UNAVAILABLE, "param": None, "code": 503}
            event = f"data: {json.dumps({'error': told})}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": False})

    def end(self) -> None:
        """Counts and logs it; of what was said there is nothing in the log."""
        self.whole_s = time.monotonic() - self._began
        # Names are the caller's own words until an engine has answered to one.
        is_known = self.status == 200 or bool(self.version)
        model = self.model if is_known else UNKNOWN
        if self._metrics is not None:
            tags = {"model": model, "version": self.version, "key": self.key}
            tokens = self.usage.prompt, self.completion_tokens
            self._metrics.end(tags, self.status, self.first_s, self.whole_s, *tokens)
        told = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "id": self.id,
            "key": self.key,
            "model": self.model[:128],
            "version": self.version,
            "status": self.status,
            "first_ms": None if self.first_s is None else round(1000 * self.first_s, 1),
            "ms": round(1000 * self.whole_s, 1),
            "prompt_tokens": self.usage.prompt,
            "completion_tokens": self.completion_tokens,
        }
        access_log.info(json.dumps(told))


class Given:
    """An exchange's answer as an ASGI application, which ends it."""

    def __init__(self, exchange: Exchange, head: Part, parts: AsyncIterator[Part], ended: Ended) -> None:
        self._exchange, self._head, self._parts, self._ended = exchange, head, parts, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._exchange.give(self._head, self._parts, send)
        finally:
            self._ended(self._exchange)
