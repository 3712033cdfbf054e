"""A replica's part of a request: which model is meant, what it has by default, and the answer of vLLM's application."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from functools import partial
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fettle.data.neutral import Neutral
from fettle.engine.fingerprint import ANSWERED_BY
from fettle.errors import UserError
from fettle.registry.reference import Reference, parsed
from fettle.serving.constrained import Constrained, is_constrained
from fettle.serving.failures import NOT_FOUND, UNAVAILABLE, failure, no_model
from fettle.serving.keys import sees
from fettle.serving.messages import as_learned
from fettle.serving.question import DIGEST, TAKEN, VERSION, EngineDied, Part, Question
from fettle.serving.residency import Residency
from fettle.serving.resident import NoRoom, NotPublished
from fettle.serving.tasks import CHAT, card_of, elsewhere

logger = logging.getLogger(__name__)

TEMPLATE = "chat_template"
END_S = 3.0
"""In which the process of a dead engine has ended."""
_FINGERPRINT_CHARS = len("sha256:") + 12


class Answers:
    """app: vLLM's. names: of the base and the adapters that are always there, the base first. defaults: request fields
    by model name, filled in where a request leaves them out. neutral: by model name, what breaks control tokens' names
    in its chats. published: what else can be asked for, by the registry's names. digest: of the base, where its
    name is a published version's."""

    def __init__(
        self,
        app: ASGIApp,
        names: tuple[str, ...],
        defaults: Mapping[str, Mapping[str, Any]],
        neutral: Mapping[str, Neutral],
        max_model_len: int,
        published: Residency | None = None,
        is_dead: Callable[[], bool] = lambda: False,
        digest: str | None = None,
    ) -> None:
        self._app, self._names, self._defaults, self._neutral = app, names, defaults, neutral
        self._max_model_len, self._published, self._is_dead = max_model_len, published, is_dead
        self._digest = digest
        self._created = int(time.time())

    def cards(self) -> list[dict[str, Any]]:
        """What can be asked for. Of published names the one in production by itself, the other aliases as
        `NAME@ALIAS`; each says its version."""
        found = [self._card(name) for name in self._names]
        for name, aliases in sorted((self._published.means if self._published is not None else {}).items()):
            for alias, number in sorted(aliases.items()):
                card = self._card(str(Reference(name, alias)))
                found.append(card | {"parent": self._names[0], "version": f"{name}:{number}"})
        return found

    async def answer(self, question: Question) -> AsyncIterator[Part]:
        """TAKEN, then the answer. Raises EngineDied where the engine is dead and nothing was answered yet; given up on,
        it ends the request."""
        if self._is_dead():
            await self._ending()
        parts: asyncio.Queue[Part | None] = asyncio.Queue()
        running = asyncio.create_task(self._run(question, parts.put_nowait))
        running.add_done_callback(lambda _: parts.put_nowait(None))
        is_first = True
        try:
            yield TAKEN  # on its way while the engine begins
            while (part := await parts.get()) is not None:
                part = _with_those_there(part, parts)
                if is_first and (part.status or 0) >= 500 and self._is_dead():
                    await self._ending()
                is_first = False
                yield part
            await running  # raises what it raised
        finally:
            running.cancel()

    async def _ending(self) -> None:
        """The process ends in a moment. Who is told by that asks another replica; to who is told before, this one looks
        like the one with the least to do."""
        await asyncio.sleep(END_S)
        raise EngineDied("the engine died")

    async def _run(self, question: Question, put: Callable[[Part], None]) -> None:
        app = await self._app_for(question)
        start: Message = {}

        async def send(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start":
                start = message
            elif message["type"] == "http.response.body":
                headers = tuple((bytes(key), bytes(value)) for key, value in start.get("headers", ()))
                put(Part(message.get("body", b""), message.get("more_body", False), start.get("status"), headers))
                start = {}

        async def receive() -> Message:
            await asyncio.Event().wait()  # who leaves is told by the request's being given up
            raise AssertionError

        await app(_scope(question), receive, send)

    def _card(self, name: str) -> dict[str, Any]:
        parent = None if name == self._names[0] else self._names[0]
        return card_of(name, parent, self._created, self._max_model_len)

    async def _app_for(self, question: Question) -> ASGIApp:
        """vLLM's app with the request as the model wants it, or the error that the request earns."""
        if (refusal := elsewhere("write", question.path)) is not None:
            return refusal
        wanted, is_chat = question.wanted, question.path == CHAT
        model = wanted.get("model") or self._names[0]
        if not isinstance(model, str) or not sees(question.visible, model):
            return self._no_model(model, question.visible)
        if model in self._names:
            defaults = self._defaults.get(model, {})
            passed = self._passed(wanted, defaults, self._neutral[model] if is_chat else None)
            is_version = self._digest is not None and model == self._names[0]
            return _Named(passed, model, str(self._digest)) if is_version else passed
        meant = parsed(model)
        if self._published is None or meant is None or meant.name not in self._published.names:
            return self._no_model(model, question.visible)
        try:
            resident = await self._published.acquire(meant)
        except NotPublished as error:
            return failure(404, str(error), kind=NOT_FOUND, param="model")
        except NoRoom as error:
            return failure(503, str(error), kind=UNAVAILABLE, retry_after_s=1)
        except UserError as error:
            return failure(400, f"'{model}' is refused here: {error.got}", param="model")
        except Exception:
            logger.exception("%s was not loaded", model)
            return failure(503, f"'{model}' cannot be loaded now", kind=UNAVAILABLE, retry_after_s=1)
        wanted = wanted | {"model": resident.version.id}
        passed = self._passed(wanted, resident.defaults, resident.neutral if is_chat else None)
        return _Named(passed, resident.version.id, resident.version.digest, partial(self._published.release, resident))

    def _no_model(self, model: object, visible: tuple[str, ...] | None) -> ASGIApp:
        published: Collection[str] = self._published.names if self._published is not None else ()
        return no_model(model, [name for name in (*self._names, *published) if sees(visible, name)])

    def _passed(self, wanted: dict[str, Any], defaults: Mapping[str, Any], neutral: Neutral | None) -> ASGIApp:
        """neutral: of a chat; None is a bare completion."""
        try:
            wanted = as_learned(wanted, neutral) if neutral is not None else wanted
            body = json.dumps(_filled(wanted, defaults, neutral is not None)).encode()
        except RecursionError:
            return failure(400, "the request's body is nested too deeply")
        return _WithBody(Constrained(self._app, self._is_dead) if is_constrained(wanted) else self._app, body)


class _WithBody:
    """`app`, given a body; what comes after it (the client's leaving) is passed on."""

    def __init__(self, app: ASGIApp, body: bytes) -> None:
        self.app, self.body = app, body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        given = False

        async def first_the_body() -> Message:
            nonlocal given
            if given:
                return await receive()
            given = True
            return {"type": "http.request", "body": self.body, "more_body": False}

        scope["headers"] = [*scope["headers"], (b"content-length", str(len(self.body)).encode())]
        await self.app(scope, first_the_body, send)


class _Named:
    """`app`, which a published version answers: named in the answer's headers. ended: is told of its end."""

    def __init__(self, app: ASGIApp, version: str, digest: str, ended: Callable[[], None] = lambda: None) -> None:
        self.app, self.version, self.digest, self.ended = app, version, digest, ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        told = [(VERSION, self.version.encode()), (DIGEST, self.digest.encode())]

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", []), *told]}
            await send(message)

        token = ANSWERED_BY.set(f"{self.version}@{self.digest[:_FINGERPRINT_CHARS]}")
        try:
            await self.app(scope, receive, send_named)
        finally:
            ANSWERED_BY.reset(token)
            self.ended()


def _with_those_there(part: Part, parts: asyncio.Queue[Part | None]) -> Part:
    """One of it and of what has come after it: where the way to the caller is slower than the engine, a stream has
    fewer parts and not a longer queue."""
    bodies = [part.body]
    while part.more and not parts.empty():
        after = parts.get_nowait()
        if after is None:
            parts.put_nowait(None)
            break
        bodies.append(after.body)
        part = part._replace(more=after.more)
    return part._replace(body=b"".join(bodies))


def _scope(question: Question) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": question.path,
        "raw_path": question.path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"application/json"), (b"x-request-id", question.id.encode())],
        "client": None,
        "server": None,
        "state": {},
    }


def _filled(wanted: dict[str, Any], defaults: Mapping[str, Any], is_chat: bool) -> dict[str, Any]:
    """The request with the model's own defaults where it says nothing; end tokens are added to the request's."""
    filled = {key: value for key, value in defaults.items() if key != TEMPLATE or is_chat}
    ends = filled.pop("stop_token_ids", [])
    given = wanted.get("stop_token_ids") or []
    if ends and isinstance(given, list):
        wanted = wanted | {"stop_token_ids": [*given, *(end for end in ends if end not in given)]}
    return filled | {key: value for key, value in wanted.items() if value is not None or key not in filled}
