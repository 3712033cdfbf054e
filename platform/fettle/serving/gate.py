"""The door in front of vLLM's application: only these routes, whole JSON objects, known models. Pure ASGI."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fettle.data.neutral import Neutral
from fettle.errors import UserError, did_you_mean
from fettle.registry.reference import Reference, parsed
from fettle.serving.messages import as_learned
from fettle.serving.residency import NoRoom, NotPublished, Residency, Resident

logger = logging.getLogger(__name__)

_CHAT = "/v1/chat/completions"
ROUTES = {
    ("POST", _CHAT),
    ("POST", "/v1/completions"),
    ("GET", "/v1/models"),
    ("GET", "/health"),
    ("GET", "/ready"),
}
MAX_BODY_BYTES = 8 << 20
_TEMPLATE = "chat_template"
_TOLD_CHARS, _TOLD_NAMES = 100, 20  # of what was asked for, and of what there is


class Gate:
    """Answers /health, /ready and /v1/models itself; passes completions to `app` once `open` has been called.

    defaults: request fields by model name, filled in where the request leaves them out. Any bearer token is taken.
    Errors have OpenAI's shape: {"error": {"message", "type", "param", "code"}}.
    """

    def __init__(self, names: tuple[str, ...], defaults: Mapping[str, Mapping[str, Any]]) -> None:
        self.names, self.defaults = names, defaults
        self.failure: str | None = None
        self._app: ASGIApp | None = None
        self._neutral: Mapping[str, Neutral] = {}
        self._published: Residency | None = None
        self._created = int(time.time())
        self._max_model_len = 0

    @property
    def is_open(self) -> bool:
        """Whether requests are let through."""
        return self._app is not None and self.failure is None

    def open(
        self,
        app: ASGIApp,
        max_model_len: int,
        neutral: Mapping[str, Neutral],
        published: Residency | None = None,
    ) -> None:
        """Lets requests through to `app`; neutral: by model name, what breaks control tokens' names in its chats.
        published: what else can be asked for, by the registry's names."""
        self._max_model_len, self._neutral, self._published = max_model_len, neutral, published
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await _lifespan(receive, send)
        if scope["type"] != "http":
            return None
        method, path = scope["method"], scope["path"].removeprefix(scope.get("root_path", ""))
        if (method, path) not in ROUTES:
            known = ", ".join(f"{verb} {route}" for verb, route in sorted(ROUTES))
            answer: ASGIApp = _error(404, f"{method} {path} is not served here; there is {known}", kind="NotFoundError")
        elif path == "/health":
            answer = self._health()
        elif path == "/ready":
            answer = self._ready()
        elif path == "/v1/models":
            cards = [self._card(name) for name in self.names]
            answer = JSONResponse({"object": "list", "data": cards + self._published_cards()})
        else:
            answer = await self._complete(scope, receive)
        await answer(scope, receive, send)

    def _health(self) -> JSONResponse:
        if self.failure is not None:
            return JSONResponse({"status": "failed", "reason": self.failure}, status_code=503)
        return JSONResponse({"status": "alive"})

    def _ready(self) -> JSONResponse:
        if self.failure is not None:
            return self._health()
        if not self.is_open:
            return JSONResponse({"status": "starting"}, status_code=503, headers={"Retry-After": "1"})
        return JSONResponse({"status": "ready", "models": list(self.names)})

    def _card(self, name: str) -> dict[str, Any]:
        parent = None if name == self.names[0] else self.names[0]
        card = {"id": name, "object": "model", "created": self._created, "owned_by": "fettle", "parent": parent}
        return card | ({"max_model_len": self._max_model_len} if self.is_open else {})

    def _published_cards(self) -> list[dict[str, Any]]:
        """A name in production by itself, the other aliases as `NAME@ALIAS`; each says its version."""
        found = []
        for name, aliases in sorted((self._published.means if self._published is not None else {}).items()):
            for alias, number in sorted(aliases.items()):
                card = self._card(str(Reference(name, alias)))
                found.append(card | {"parent": self.names[0], "version": f"{name}:{number}"})
        return found

    async def _complete(self, scope: Scope, receive: Receive) -> ASGIApp:
        """vLLM's app with the checked body, or the error that the request earns."""
        if not self.is_open or self._app is None:
            why = f"the engine failed: {self.failure}" if self.failure else "the model is still being loaded"
            return _error(503, why, kind="ServiceUnavailableError", retry=True)
        body = await _body(receive)
        if body is None:
            return _error(413, f"the request's body is over {MAX_BODY_BYTES} bytes")
        try:
            wanted = json.loads(body)
        except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
            return _error(400, f"the request's body is not valid JSON ({error})")
        except RecursionError:
            return _error(400, "the request's body is nested too deeply")
        if not isinstance(wanted, dict):
            return _error(400, "the request's body must be a JSON object")
        is_chat = scope["path"].endswith(_CHAT)
        extra = wanted.get("chat_template_kwargs")
        if _TEMPLATE in wanted or (isinstance(extra, dict) and _TEMPLATE in extra):
            return _error(400, "the chat template is the model's; a request cannot bring one", param=_TEMPLATE)
        model = wanted.get("model") or self.names[0]
        if model in self.names:
            defaults = self.defaults.get(model, {})
            if is_chat or defaults:
                return self._passed(scope, wanted, defaults, self._neutral[model] if is_chat else None)
            return _Replayed(self._app, body)
        known = self._published.names if self._published is not None else ()
        meant = parsed(model) if isinstance(model, str) else None
        if self._published is None or meant is None or meant.name not in known:
            return _no_model(str(model)[:_TOLD_CHARS], (*self.names, *known))
        try:
            resident = await self._published.acquire(meant)
        except NotPublished as error:
            return _error(404, str(error), kind="NotFoundError", param="model")
        except NoRoom as error:
            return _error(503, str(error), kind="ServiceUnavailableError", retry=True)
        except UserError as error:
            return _error(400, f"'{model}' is refused here: {error.got}", param="model")
        except Exception:
            logger.exception("%s was not loaded", model)
            why = f"'{model}' cannot be loaded now"
            return _error(503, why, kind="ServiceUnavailableError", retry=True)
        wanted["model"] = resident.version.id
        passed = self._passed(scope, wanted, resident.defaults, resident.neutral if is_chat else None)
        return _Held(passed, resident, self._published)

    def _passed(
        self, scope: Scope, wanted: dict[str, Any], defaults: Mapping[str, Any], neutral: Neutral | None
    ) -> ASGIApp:
        """vLLM's app with the request as the model wants it. neutral: of a chat; None is a bare completion."""
        assert self._app is not None
        try:
            wanted = as_learned(wanted, neutral) if neutral is not None else wanted
            body = json.dumps(_filled(wanted, defaults, neutral is not None)).encode()
        except RecursionError:
            return _error(400, "the request's body is nested too deeply")
        scope["headers"] = [(key, value) for key, value in scope["headers"] if key.lower() != b"content-length"]
        scope["headers"].append((b"content-length", str(len(body)).encode()))
        return _Replayed(self._app, body)


class _Replayed:
    """`app`, given a body that has already been read; what comes after it (the client's leaving) is passed on."""

    def __init__(self, app: ASGIApp, body: bytes) -> None:
        self.app, self.body = app, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = False

        async def replay() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": self.body, "more_body": False}

        await self.app(scope, replay, send)


class _Held:
    """`app`, which is answered by a published version: named in the answer's headers, and given back at its end."""

    def __init__(self, app: ASGIApp, resident: Resident, published: Residency) -> None:
        self.app, self.resident, self.published = app, resident, published

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        version = self.resident.version
        told = [(b"x-fettle-version", version.id.encode()), (b"x-fettle-digest", version.digest.encode())]

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *told]}
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        finally:
            self.published.release(self.resident)


def _filled(wanted: dict[str, Any], defaults: Mapping[str, Any], is_chat: bool) -> dict[str, Any]:
    """The request with the model's own defaults where it says nothing; end tokens are added to the request's."""
    filled = {key: value for key, value in defaults.items() if key != _TEMPLATE or is_chat}
    ends = filled.pop("stop_token_ids", [])
    given = wanted.get("stop_token_ids") or []
    if ends and isinstance(given, list):
        wanted = wanted | {"stop_token_ids": [*given, *(end for end in ends if end not in given)]}
    return filled | {key: value for key, value in wanted.items() if value is not None or key not in filled}


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
    """Ray Serve starts and stops its apps; vLLM's own start-up hook only logs statistics and is left out."""
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


def _no_model(model: str, names: tuple[str, ...]) -> JSONResponse:
    available = ", ".join(names[:_TOLD_NAMES]) + (", …" if len(names) > _TOLD_NAMES else "")
    message = f"no model '{model}'{did_you_mean(model, names)}; available: {available}"
    return _error(404, message, kind="NotFoundError", param="model")


def _error(
    code: int, message: str, *, kind: str = "BadRequestError", param: str | None = None, retry: bool = False
) -> JSONResponse:
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return JSONResponse(body, status_code=code, headers={"Retry-After": "1"} if retry else None)
