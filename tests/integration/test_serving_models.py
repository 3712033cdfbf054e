"""`fettle serve NAME` of a full model in a registry: its versions change places, each warm before the other goes.

Two engine starts: version 1, and version 2 beside it.
"""

from __future__ import annotations

import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from fettle.registry.folder import FolderRegistry
from fettle.serving.publish import publish
from live import COMPLETE, COUNT, START_TIMEOUT_S, Live, farthest, greedy, live, tokens_of

TOLERANCE = 1e-3  # nats
PROMPT = [5, 6, 7, 8]
Reference = Callable[..., tuple[list[int], list[float]]]


@pytest.fixture(scope="module")
def registry(tiny: Path, loras: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> FolderRegistry:
    """`base:1` is the bundled model, in production; over it an adapter, `voice`."""
    registry = FolderRegistry(tmp_path_factory.mktemp("models"))
    publish(tiny, registry=registry.root, name="base", alias="production")
    publish(loras["brief"], registry=registry.root, name="voice", alias="production")
    return registry


@pytest.fixture(scope="module")
def at(registry: FolderRegistry) -> Iterator[Live]:
    with live("base", "--registry", str(registry.root), "--also", "candidate", "--replicas", "1") as running:
        yield running


class Asking:
    """Asks for `base` again and again, streamed and not, until it is told to stop."""

    def __init__(self, at: Live) -> None:
        self.answers: list[requests.Response] = []
        self._at, self._stop = at, threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(is_stream,)) for is_stream in (False, True)]

    def __enter__(self) -> Asking:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, is_stream: bool) -> None:
        body = {"model": "base", "prompt": PROMPT, "max_tokens": COUNT, "temperature": 0, "ignore_eos": True}
        told = {"logprobs": 0, "return_tokens_as_token_ids": True, "stream": is_stream}
        while not self._stop.is_set():
            self.answers.append(self._at.post(COMPLETE, body | told))


def listed(at: Live) -> dict[str, str | None]:
    return {card["id"]: card.get("version") for card in at.get("/v1/models").json()["data"]}


def asked(at: Live, model: str) -> requests.Response:
    return at.post(COMPLETE, {"model": model, "prompt": PROMPT, "max_tokens": 1})


def until(condition: Callable[[], bool]) -> None:
    latest = time.monotonic() + START_TIMEOUT_S
    while not condition():
        assert time.monotonic() < latest
        time.sleep(0.2)


def test_it_answers_by_the_version_in_production(at: Live, reference: Reference) -> None:
    assert "models: base" in "".join(at.printed)
    assert listed(at) == {"base": "base:1", "voice": "voice:1"}
    assert farthest(greedy(at, "base", PROMPT), reference(PROMPT, None, COUNT)) < TOLERANCE

    answer = asked(at, "base")
    told: dict[str, Any] = answer.json()
    assert answer.headers["x-fettle-version"] == told["model"] == "base:1"
    assert told["system_fingerprint"].startswith("base:1@sha256:")
    assert answer.headers["x-fettle-digest"].startswith("sha256:")


def test_adapters_of_the_registry_go_over_it(at: Live, reference: Reference) -> None:
    assert farthest(greedy(at, "voice", PROMPT), reference(PROMPT, "brief", COUNT)) < TOLERANCE
    assert asked(at, "voice").headers["x-fettle-version"] == "voice:1"


def test_a_version_without_engines_is_404(at: Live) -> None:
    for name in ("base:7", "base@other", "base@candidate"):
        answer = asked(at, name)
        assert answer.status_code == 404 and "base (base:1)" in answer.json()["error"]["message"]
    assert asked(at, "bass").status_code == 404


def test_a_new_version_is_warm_before_the_name_means_it_and_nobody_is_cut(
    at: Live, registry: FolderRegistry, loras: dict[str, Path], reference: Reference
) -> None:
    with Asking(at) as asking:
        publish(loras["polite-merged"], registry=registry.root, name="base")
        until(lambda: asked(at, "base@candidate").status_code == 200)
        assert asked(at, "base@candidate").headers["x-fettle-version"] == "base:2"
        assert asked(at, "base:2").status_code == asked(at, "base:1").status_code == 200
        registry.point("base", "production", 2)
        until(lambda: asked(at, "base").headers["x-fettle-version"] == "base:2")
        until(lambda: asked(at, "base:1").status_code == 404)
        time.sleep(6)  # the old engines have ended by then

    assert {answer.status_code for answer in asking.answers} == {200}
    wanted = {"base:1": reference(PROMPT, None, COUNT), "base:2": reference(PROMPT, "polite", COUNT)}
    versions = [answer.headers["x-fettle-version"] for answer in asking.answers]
    for answer, version in zip(asking.answers, versions, strict=True):
        assert farthest(tokens_of(answer), wanted[version]) < TOLERANCE
    assert set(versions) == set(wanted)
    for is_stream in (False, True):  # never back, as each of both saw it
        seen = [one.headers["x-fettle-version"] for one in asking.answers if is_streamed(one) == is_stream]
        assert [version for version, _ in itertools.groupby(seen)] == ["base:1", "base:2"]
    assert listed(at) == {"base": "base:2", "base@candidate": "base:2", "voice": "voice:1"}


def is_streamed(answer: requests.Response) -> bool:
    return answer.headers["content-type"].startswith("text/event-stream")


def test_it_ends_with_all_engines(at: Live) -> None:
    code, left = at.stopped_by(signal.SIGTERM)
    assert (code, left) == (0, [])
