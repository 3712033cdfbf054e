"""Rewards over HTTP, from a server on loopback that does as it is told."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from fettle.data.record import Message, Prompt, Record
from fettle.errors import UserError
from fettle.recipe.rewards import RewardSpec
from fettle.rl.rewards.service import ServiceScorer

RECORD = Record(
    Path("p.jsonl"), 1, prompt=Prompt((Message("user", "Why?"),), ("Why?",)), columns={"level": 3, "day": Path("x")}
)
GOOD = (200, '{"scores": [0.5, 1]}')
Answer = tuple[int, str] | float


class Server(ThreadingHTTPServer):
    """answers: to each request in turn; a number is that many seconds of silence."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers: list[Answer] = []
        self.asked: list[Any] = []
        self.keys: list[str | None] = []


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        self.server.keys.append(self.headers.get("Authorization"))
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        answer = self.server.answers.pop(0)
        if isinstance(answer, float):
            time.sleep(answer)
            return
        self.send_response(answer[0])
        self.end_headers()
        self.wfile.write(answer[1].encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Listening; no proxy stands before it."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ask(server: Server, rollout: Any) -> Callable[..., tuple[list[float], list[float]]]:
    """`ask(*answers, **keys)`: (rewards of two answers, the waits between tries) from a server that gives these."""

    def ask(*answers: Answer, **keys: Any) -> tuple[list[float], list[float]]:
        server.answers = list(answers)
        told = {"url": f"http://127.0.0.1:{server.server_port}/score"} | keys
        waits: list[float] = []
        scorer = ServiceScorer(RewardSpec.model_validate(told), wait=waits.append)
        return scorer.score([rollout(text="a"), rollout(text="b")], [RECORD]), waits

    return ask


def test_a_service_is_asked_once_with_everything(ask, server) -> None:
    assert ask(GOOD) == ([0.5, 1.0], [])
    assert server.asked == [
        {"prompts": ["Why?", "Why?"], "completions": ["a", "b"], "columns": {"level": [3, 3], "day": ["x", "x"]}}
    ]


def test_a_key_comes_from_the_environment(ask, server, monkeypatch) -> None:
    monkeypatch.setenv("TASTE_KEY", "secret")
    ask(GOOD, key_env="TASTE_KEY")
    ask(GOOD)
    assert server.keys == ["Bearer secret", None]
    monkeypatch.delenv("TASTE_KEY")
    with pytest.raises(UserError, match="TASTE_KEY is not set"):
        ask(GOOD, key_env="TASTE_KEY")


@pytest.mark.parametrize("status", [500, 503, 429])
def test_what_may_pass_is_tried_again_after_longer_and_longer_waits(ask, server, status) -> None:
    assert ask((status, "busy"), (status, "busy"), GOOD) == ([0.5, 1.0], [1.0, 2.0])
    assert len(server.asked) == 3 and server.asked[0] == server.asked[2]


def test_a_service_that_stays_silent_is_asked_again(ask) -> None:
    assert ask(0.3, GOOD, timeout_s=0.1) == ([0.5, 1.0], [1.0])


def test_the_last_error_and_the_number_of_tries_are_told_at_the_end(ask, server) -> None:
    with pytest.raises(UserError, match=r"http://127.0.0.1:\d+/score failed 2 times; at last: 500 .*: out of memory"):
        ask((503, "busy"), (500, "out of memory"), tries=2)
    assert len(server.asked) == 2


def test_a_time_out_is_told(ask) -> None:
    with pytest.raises(UserError, match=r"failed 1 times; at last: no answer within 0.1 s"):
        ask(0.3, timeout_s=0.1, tries=1)


def test_a_service_that_is_not_there_is_told(rollout, monkeypatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    waits: list[float] = []
    scorer = ServiceScorer(RewardSpec(url=f"http://127.0.0.1:{port}/"), wait=waits.append)
    with pytest.raises(UserError, match="failed 3 times; at last: no connection"):
        scorer.score([rollout()], [RECORD])
    assert waits == [1.0, 2.0]


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((404, "where?"), "refused: 404 Not Found: where?"),
        ((200, '{"scores": [0.5]}'), "gave 1 rewards for 2 answers"),
        ((200, '{"scores": [0.5, NaN]}'), "gave nan as the reward of answer 1"),
        ((200, '{"scores": [0.5, null]}'), "gave None as the reward of answer 1"),
        ((200, '{"scores": {"a": 1}}'), "gave a dict"),
        ((200, '{"rewards": [0.5, 1]}'), "answered '{\"rewards\": [0.5, 1]}'"),
        ((200, "fine"), "answered 'fine'"),
    ],
)
def test_what_will_not_pass_ends_the_run_at_once(ask, server, answer, message) -> None:
    with pytest.raises(UserError) as caught:
        ask(answer)
    assert message in str(caught.value) and f":{server.server_port}/score" in str(caught.value)
    assert len(server.asked) == 1
