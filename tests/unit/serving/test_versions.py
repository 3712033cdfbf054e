"""The ingress's way to the versions of a full model: by alias, by number, as far as a key may see."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from in_process import InProcess, error
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fettle.data.neutral import Neutral
from fettle.serving.answers import Answers
from fettle.serving.blue_green import Live
from fettle.serving.gate import Gate
from fettle.serving.question import Question
from fettle.serving.versions import Versions

COMPLETE = "/v1/completions"
BOTH = {"production": Live("base:1", "first"), "candidate": Live("base:2", "second")}


def saying(engine: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        model = (await Request(scope, receive).json())["model"]
        await JSONResponse({"engine": engine, "model": model})(scope, receive, send)

    return app


def engines_of(app: str) -> InProcess:
    """The engines of one version; the first one has an adapter too."""
    names = {"first": ("base:1", "voice"), "second": ("base:2",)}[app]
    neutral = dict.fromkeys(names, Neutral([]))
    return InProcess(Answers(saying(app), names, {}, neutral, 512, digest=f"sha256:{app:0<64}"))


def versions(live: dict[str, Live], refused: dict[str, str] | None = None) -> Versions:
    found = Versions("base", engines_of)
    asyncio.run(found.know(live, refused or {}))
    return found


@pytest.fixture
def at() -> TestClient:
    return TestClient(Gate(versions(BOTH)))


def ask(at: TestClient, model: str | None) -> Any:
    return at.post(COMPLETE, json={"model": model, "prompt": "x"})


@pytest.mark.parametrize(
    ("model", "engine", "version"),
    [
        ("base", "first", "base:1"),
        ("", "first", "base:1"),
        (None, "first", "base:1"),
        ("base@production", "first", "base:1"),
        ("base:1", "first", "base:1"),
        ("base@candidate", "second", "base:2"),
        ("base:2", "second", "base:2"),
    ],
)
def test_a_name_is_answered_by_the_engines_of_the_version_it_means(
    at: TestClient, model: str | None, engine: str, version: str
) -> None:
    answer = ask(at, model)
    assert answer.json() == {"engine": engine, "model": version}
    assert answer.headers["x-fettle-version"] == version
    assert answer.headers["x-fettle-digest"].startswith(f"sha256:{engine}")


def test_adapters_are_answered_by_production(at: TestClient) -> None:
    answer = ask(at, "voice")
    assert answer.json() == {"engine": "first", "model": "voice"} and "x-fettle-version" not in answer.headers


def test_names_are_listed_with_their_versions(at: TestClient) -> None:
    listed = [(card["id"], card.get("version"), card["parent"]) for card in at.get("/v1/models").json()["data"]]
    assert listed == [("base", "base:1", None), ("base@candidate", "base:2", None), ("voice", None, "base")]


@pytest.mark.parametrize("model", ["base:3", "base@beta"])
def test_a_version_without_engines_is_404_and_told_what_there_is(at: TestClient, model: str) -> None:
    assert error(ask(at, model)) == (
        404,
        f"'{model}' has no engine here; there is base (base:1), base@candidate (base:2)",
    )


def test_a_version_that_is_refused_says_why() -> None:
    at = TestClient(Gate(versions({"production": BOTH["production"]}, {"candidate": "base:2: no memory"})))
    assert error(ask(at, "base@candidate")) == (400, "'base@candidate' is refused here: base:2: no memory")
    assert ask(at, "base").status_code == 200


def test_before_anything_is_warm_it_is_503() -> None:
    at = TestClient(Gate(versions({})))
    assert ask(at, "base").status_code == ask(at, "voice").status_code == at.get("/ready").status_code == 503


@pytest.mark.parametrize("model", ["base", "base:2", "base@candidate"])
def test_what_a_key_may_not_see_is_not_there_for_it(model: str) -> None:
    async def asked() -> int | None:
        head, _ = await versions_.ask(Question(COMPLETE, {"model": model, "prompt": "x"}, "1", visible=("other",)))
        return head.status

    versions_ = versions(BOTH)
    assert asyncio.run(asked()) == 404
