"""Several base models behind one ingress."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from in_process import InProcess
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from fettle.data.neutral import Neutral
from fettle.registry.folder import FolderRegistry
from fettle.serving.answers import Answers
from fettle.serving.blue_green import Live
from fettle.serving.gate import Gate
from fettle.serving.several import Behind, Several
from fettle.serving.versions import Versions

COMPLETE = "/v1/completions"


def saying(engine: str) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        model = (await Request(scope, receive).json())["model"]
        await JSONResponse({"engine": engine, "model": model})(scope, receive, send)

    return app


def engine(name: str, *adapters: str) -> InProcess:
    names = (name, *adapters)
    return InProcess(Answers(saying(name), names, {}, dict.fromkeys(names, Neutral([])), 512))


@pytest.fixture
def at(registry: FolderRegistry) -> TestClient:
    small = Behind(engine("small", "polite"), ("small", "polite"), None)
    large = Behind(engine("large", "support:1"), ("large",), registry)  # as if it had loaded what is published
    absent = Behind(InProcess(None), ("absent",), None)
    return TestClient(Gate(Several([small, large, absent])))


@pytest.mark.parametrize(
    ("model", "asked"), [("small", "small"), ("polite", "small"), ("large", "large"), ("support:1", "large")]
)
def test_each_name_is_answered_by_its_own_model(
    at: TestClient, publish: Callable[..., Any], model: str, asked: str
) -> None:
    publish("support", "a")
    assert at.post(COMPLETE, json={"model": model, "prompt": "x"}).json()["engine"] == asked


def test_a_version_of_a_model_is_asked_of_that_model(registry: FolderRegistry) -> None:
    followed = Versions("base", lambda app: engine(app))
    asyncio.run(followed.know({"production": Live("base:1", "base:1"), "candidate": Live("base:2", "base:2")}, {}))
    both = [Behind(engine("small"), ("small",), None), Behind(followed, ("base",), registry)]
    at = TestClient(Gate(Several(both)))
    for model, answered in (("base", "base:1"), ("base@candidate", "base:2"), ("base:2", "base:2")):
        assert at.post(COMPLETE, json={"model": model, "prompt": "x"}).json()["engine"] == answered


def test_all_models_that_are_there_are_listed(at: TestClient) -> None:
    listed = [card["id"] for card in at.get("/v1/models").json()["data"]]
    assert listed == ["small", "polite", "large", "support:1"]
    assert at.get("/ready").status_code == 200


def test_a_model_that_is_not_there_is_503_and_the_others_answer(at: TestClient) -> None:
    assert at.post(COMPLETE, json={"model": "absent", "prompt": "x"}).status_code == 503
    assert at.post(COMPLETE, json={"model": "small", "prompt": "x"}).status_code == 200


def test_an_unknown_name_is_404(at: TestClient) -> None:
    assert at.post(COMPLETE, json={"model": "other", "prompt": "x"}).status_code == 404
