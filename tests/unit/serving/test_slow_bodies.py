"""Bodies that come slowly, without end or not at all, over real sockets."""

from __future__ import annotations

import asyncio
import json
import select
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import uvicorn
from in_process import InProcess
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from fettle.data.neutral import Neutral
from fettle.serving import bodies
from fettle.serving.answers import Answers
from fettle.serving.gate import Gate

PATH = "/v1/completions"
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
BEGUN = b'{"model": "base", "prompt": "'


class Asked:
    """An engine's application that counts."""

    def __init__(self) -> None:
        self.count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Request(scope, receive).json()
        self.count += 1
        await JSONResponse({})(scope, receive, send)


def gate_over(app: Any) -> Gate:
    return Gate(InProcess(Answers(app, ("base",), {}, {"base": Neutral([])}, 512)))


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Of a server as Ray Serve's proxy is one, whose bodies are to come within half a second."""
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(gate_over(Asked()), log_level="warning", lifespan="off"))
        running = threading.Thread(target=server.run, args=([listening],), daemon=True)
        running.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        running.join(10)


def begun(port: int, headers: str, body: bytes) -> socket.socket:
    told = socket.create_connection(("127.0.0.1", port), timeout=20)
    told.sendall(f"{HEAD}{headers}\r\n".encode() + body)
    return told


def status(told: socket.socket) -> int:
    return int(told.recv(65536).split()[1])


def test_a_body_that_stops_is_408_while_others_are_answered(port: int) -> None:
    slow = [begun(port, "Content-Length: 1000\r\n", BEGUN) for _ in range(50)]

    answer = requests.post(f"http://127.0.0.1:{port}{PATH}", json={"model": "base", "prompt": "x"}, timeout=20)

    assert answer.status_code == 200
    assert {status(one) for one in slow} == {408}


def test_a_body_that_comes_byte_by_byte_is_408(port: int) -> None:
    slow = begun(port, "Content-Length: 1000000\r\n", BEGUN)
    answered = threading.Event()

    def drip() -> None:
        while not answered.wait(0.01):
            try:
                slow.send(b"a")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert status(slow) == 408
    finally:
        answered.set()
        dripping.join()


def test_a_body_without_end_is_413(port: int) -> None:
    slow = begun(port, "Transfer-Encoding: chunked\r\n", b"")
    chunk = b"100000\r\n" + b"a" * (1 << 20) + b"\r\n"

    for _ in range(12):
        try:
            slow.sendall(chunk)
        except OSError:  # answered, and closed
            break

    assert status(slow) == 413


def test_bodies_that_only_begin_cannot_take_all_memory(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODIES_BYTES", 1 << 20)
    monkeypatch.setattr(bodies, "BODY_TIMEOUT_S", 20)
    slow = [begun(port, "Content-Length: 8000000\r\n", BEGUN + b"a" * 400_000) for _ in range(3)]

    refused = select.select(slow, [], [], 20)[0][0].recv(65536)

    assert b" 503 " in refused and b"retry-after" in refused
    answer = requests.post(f"http://127.0.0.1:{port}{PATH}", json={"model": "base", "prompt": "x"}, timeout=20)
    assert answer.status_code == 200


@pytest.mark.parametrize("sent", [BEGUN, json.dumps({"model": "base", "prompt": "x"}).encode()])
def test_no_engine_is_asked_by_who_left_before_the_end(sent: bytes) -> None:
    engine, said = Asked(), []
    messages: list[Message] = [
        {"type": "http.request", "body": sent, "more_body": True},
        {"type": "http.disconnect"},
    ]

    async def receive() -> Message:
        return messages.pop(0)

    async def send(message: Message) -> None:
        said.append(message)

    scope = {"type": "http", "method": "POST", "path": PATH, "headers": []}
    asyncio.run(gate_over(engine)(scope, receive, send))

    assert engine.count == 0 and said[0]["status"] == 400
