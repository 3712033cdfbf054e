"""What a replica makes of a request to a published name, and of an engine that dies."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from in_process import client_of, error
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fettle.data.neutral import Neutral
from fettle.errors import UserError
from fettle.registry.folder import Version
from fettle.registry.reference import Reference
from fettle.serving import answers
from fettle.serving.answers import CHAT, Answers
from fettle.serving.question import TAKEN, EngineDied, Part, Question
from fettle.serving.resident import NoRoom, NotPublished, Resident


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).json()
    await JSONResponse({"path": scope["path"], "body": body})(scope, receive, send)


class Published:
    """What the gate asks of a residency: one version, which is counted."""

    def __init__(self, error: Exception | None = None) -> None:
        self.means = {"voice": {"production": 1, "candidate": 2}}
        self.names = self.means.keys()
        self.running, self._error = 0, error

    async def acquire(self, wanted: Reference) -> Resident:
        if self._error is not None:
            raise self._error
        self.running += 1
        version = Version(wanted.name, 1, Path("/registry"), "sha256:1", 1, "2026-11-29T00:00:00+00:00")
        return Resident(version, Path("/copy"), {"temperature": 0.5}, Neutral(["<v>"]))

    def release(self, resident: Resident) -> None:
        self.running -= 1


def published_client(published: Any, app: Any = echo) -> TestClient:
    return client_of(Answers(app, ("base",), {}, {"base": Neutral([])}, 512, published))


def test_a_published_version_is_named_to_the_engine_and_in_the_answers_headers() -> None:
    published = Published()

    answer = published_client(published).post(
        CHAT, json={"model": "voice", "messages": [{"role": "user", "content": "<v>"}]}
    )

    told = {"model": "voice:1", "messages": [{"role": "user", "content": "<\u200bv>"}], "temperature": 0.5}
    assert answer.json()["body"] == told
    assert (answer.headers["x-fettle-version"], answer.headers["x-fettle-digest"]) == ("voice:1", "sha256:1")
    assert published.running == 0


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the engine")


@pytest.mark.parametrize(
    ("app", "body"), [(broken, {"model": "voice"}), (echo, {"model": "voice", "messages": "[" * 3})]
)
def test_a_version_is_given_back_whatever_becomes_of_the_request(app: Any, body: dict[str, Any]) -> None:
    published = Published()
    published_client(published, app).post(CHAT, json=body)
    assert published.running == 0


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (NotPublished("no model 'voice:9'"), 404),
        (NoRoom("all 4 places are taken"), 503),
        (UserError("it was not made for this base"), 400),
    ],
)
def test_a_version_that_cannot_answer_has_the_status_of_its_reason(raised: Exception, status: int) -> None:
    response = published_client(Published(raised)).post(CHAT, json={"model": "voice"})

    assert error(response) == (status, error(response)[1]) and str(raised).split(" at ")[0] in error(response)[1]
    assert ("Retry-After" in response.headers) == (status == 503)


def test_published_names_are_listed_with_their_versions() -> None:
    cards = published_client(Published()).get("/v1/models").json()["data"]

    assert [(card["id"], card.get("version")) for card in cards] == [
        ("base", None),
        ("voice@candidate", "voice:2"),
        ("voice", "voice:1"),
    ]


def test_a_name_that_is_nearly_published_is_told() -> None:
    status, message = error(published_client(Published()).post(CHAT, json={"model": "voic"}))

    assert (status, message) == (404, "no model 'voic' (did you mean 'voice'?); available: base, voice")


def test_what_can_be_no_published_name_is_404_without_asking() -> None:
    for name in ("../voice", "voice:0", "a" * 500):
        assert error(published_client(Published(RuntimeError("asked"))).post(CHAT, json={"model": name}))[0] == 404


async def fails(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse({"error": "dead"}, status_code=500)(scope, receive, send)


async def parts_of(one: Answers) -> list[Part]:
    return [part async for part in one.answer(Question(CHAT, {"model": "base"}, "1"))]


def dying(looks: int, app: Any = fails) -> Answers:
    """An engine that is dead from so many looks on."""
    seen = iter(range(100))
    return Answers(app, ("base",), {}, {"base": Neutral([])}, 512, is_dead=lambda: next(seen) >= looks)


@pytest.mark.parametrize("looks", [0, 1])
def test_a_dead_engines_question_goes_back_to_who_asked(looks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "END_S", 0.0)
    with pytest.raises(EngineDied):
        asyncio.run(parts_of(dying(looks)))


def test_an_error_of_a_living_engine_is_its_answer() -> None:
    taken, answer = asyncio.run(parts_of(dying(99)))
    assert (taken, answer.status) == (TAKEN, 500)


def test_a_question_that_is_given_up_on_ends() -> None:
    ended: list[bool] = []

    async def forever(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"a", "more_body": True})
            await receive()
        finally:
            ended.append(True)

    async def given_up() -> None:
        parts = dying(99, forever).answer(Question(CHAT, {"model": "base"}, "1"))
        assert [await anext(parts), (await anext(parts)).body] == [TAKEN, b"a"]
        await parts.aclose()  # type: ignore[attr-defined]
        await asyncio.sleep(0)

    asyncio.run(given_up())
    assert ended == [True]


async def hurried(scope: Scope, receive: Receive, send: Send) -> None:
    """Says three words and, some time after them, a fourth."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for word in (b"a ", b"b ", b"c "):
        await send({"type": "http.response.body", "body": word, "more_body": True})
    await asyncio.sleep(0.01)
    await send({"type": "http.response.body", "body": b"d", "more_body": False})


def test_what_an_engine_has_said_meanwhile_goes_on_in_one_part() -> None:
    found = asyncio.run(parts_of(Answers(hurried, ("base",), {}, {"base": Neutral([])}, 512)))

    assert found == [TAKEN, Part(b"a b c ", True, 200, ()), Part(b"d", False)]


async def cut(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"a", "more_body": True})
    raise RuntimeError("the engine")


def test_what_was_said_before_an_error_still_comes() -> None:
    async def until_the_error() -> list[Part]:
        found = []
        with pytest.raises(RuntimeError, match="the engine"):
            async for part in Answers(cut, ("base",), {}, {"base": Neutral([])}, 512).answer(
                Question(CHAT, {"model": "base"}, "1")
            ):
                found.append(part)
        return found

    assert asyncio.run(until_the_error()) == [TAKEN, Part(b"a", True, 200, ())]
