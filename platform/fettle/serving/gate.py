"""The door of the endpoint: only these routes, only who may, whole JSON objects, an answer to everything. Pure ASGI."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Sequence
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from fettle.registry.folder import FolderRegistry
from fettle.serving import admin, openapi, tasks
from fettle.serving.access import Access, Refused
from fettle.serving.bodies import Bodies
from fettle.serving.dispatch import Dispatch, Outcome
from fettle.serving.engines import Engines, Unavailable
from fettle.serving.exchange import Exchange, Given
from fettle.serving.failures import DENIED, NOT_FOUND, UNAVAILABLE, failure
from fettle.serving.keys import Key, sees, visible_to
from fettle.serving.metrics import RequestMetrics
from fettle.serving.question import Question
from fettle.serving.traffic import Traffic
from fettle.serving.usage import with_usage

ROUTES = {
    *(("POST", route) for routes in tasks.ROUTES.values() for route in routes),
    *admin.ROUTES,
    ("GET", "/v1/models"),
    ("GET", "/health"),
    ("GET", "/ready"),
    ("GET", openapi.PATH),
}
_WAIT_S, _NO_SOCKETS = 5, 1008
_REQUEST_ID, _MOST_ID_CHARS = b"x-request-id", 128

Headers = list[tuple[bytes, bytes]]

logger = logging.getLogger(__name__)


class Gate:
    """Asks `engines` what it does not answer itself. Errors have OpenAI's shape: {"error": {"message", "type", "param",
    "code"}}. /health, /ready and /openapi.json want no key. access: without keys any bearer token is taken. traffic:
    the canaries. metrics: None counts nothing. registries: which keys may change."""

    def __init__(
        self,
        engines: Engines,
        access: Access | None = None,
        traffic: Traffic | None = None,
        metrics: RequestMetrics | None = None,
        registries: Sequence[FolderRegistry] = (),
    ) -> None:
        self._registries = registries
        self._engines, self._access, self._metrics = engines, access or Access(None), metrics
        self._dispatch = Dispatch(engines, traffic or Traffic([]))
        self._bodies = Bodies()
        self._described = JSONResponse(openapi.document(has_keys=self._access.has_keys))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        if scope["type"] == "websocket":  # left unanswered, it would be a 500
            return await send({"type": "websocket.close", "code": _NO_SOCKETS})
        answer = await self._answer(scope, receive)
        await answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive) -> ASGIApp:
        method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
        if (method, path) not in ROUTES:
            known = ", ".join(f"{verb} {route}" for verb, route in sorted(ROUTES))
            return failure(404, f"{method} {path[:200]} is not served here; there is {known}", kind=NOT_FOUND)
        if path == "/health":
            return JSONResponse({"status": "alive"})
        if path == "/ready":
            return await self._ready()
        if path == openapi.PATH:
            return self._described
        if path == "/v1/models":
            try:
                return await self._models(self._access.known(scope["headers"], "infer"))
            except Refused as refused:
                return refused.response
        if (method, path) in admin.ROUTES:
            return await self._administer(path, scope["headers"], receive)
        return await self._complete(path, scope["headers"], receive)

    async def _ready(self) -> JSONResponse:
        if await self._engines.cards() is None:
            headers = {"Retry-After": str(_WAIT_S)}
            return JSONResponse({"status": "starting"}, status_code=503, headers=headers)
        return JSONResponse({"status": "ready"})

    async def _models(self, key: Key | None) -> JSONResponse:
        cards = await self._engines.cards()
        if cards is None:
            return _unavailable()
        visible = visible_to(key)
        return JSONResponse({"object": "list", "data": [card for card in cards if sees(visible, card["id"])]})

    async def _administer(self, path: str, headers: Headers, receive: Receive) -> JSONResponse:
        try:
            key = self._access.known(headers, "publish")
            if key is None:  # any page in a browser on this machine could ask
                return failure(403, "the registry is changed over HTTP with keys alone; serve with --keys", kind=DENIED)
            wanted = {} if path == admin.REGISTRY else await self._bodies.wanted(receive)
            return await admin.administer(self._registries, path, wanted, key)
        except Refused as refused:
            return refused.response

    async def _complete(self, path: str, headers: Headers, receive: Receive) -> ASGIApp:
        """The engine's answer to the checked body, or the error that the request earns."""
        unique = uuid.uuid4().hex
        given = next((value.decode("latin-1") for name, value in headers if name == _REQUEST_ID), unique)
        exchange = Exchange(given[:_MOST_ID_CHARS], self._metrics)
        try:
            key = self._access.known(headers, "infer")
            exchange.key = key.name if key is not None else ""
            self._access.begin(key)
        except Refused as refused:
            return exchange.refused(refused.response)
        outcome: Outcome = _nobody

        def ended(exchange: Exchange) -> None:
            self._access.end(key, exchange.tokens)
            exchange.end()
            outcome(exchange.status, exchange.whole_s)

        try:
            wanted, exchange.usage = with_usage(await self._bodies.wanted(receive))
            exchange.model = wanted["model"] if isinstance(wanted.get("model"), str) else ""
            question = Question(path, wanted, unique, visible_to(key))
            head, parts, outcome = await self._dispatch.ask(question, _user(wanted, key))
            return Given(exchange, head, parts, ended)
        except Refused as refused:
            response = refused.response
        except Unavailable:
            response = _unavailable()
        except Exception:
            logger.exception("%s: no answer", exchange.id)
            response = failure(500, "the engine failed over this request", kind="InternalServerError")
        except BaseException:
            ended(exchange)
            raise
        self._access.end(key, 0)
        return exchange.refused(response)


def _nobody(status: int, seconds: float) -> None:
    """Is told of an answer that never began."""


def _user(wanted: dict[str, Any], key: Key | None) -> str | None:
    """Whoever asks, as far as that is known."""
    user = wanted.get("user")
    return user if isinstance(user, str) and user else key.name if key is not None else None


def _unavailable() -> JSONResponse:
    why = "no engine is there to answer: the model is being loaded, or its replica is being replaced"
    return failure(503, why, kind=UNAVAILABLE, retry_after_s=_WAIT_S)


async def _lifespan(receive: Receive, send: Send) -> None:
    """Ray Serve starts and stops its apps."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
