"""Connections that never become a request, over real sockets."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http import auto

from fettle.serving import front


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads the body, but of /early; says which id the request has."""
    if scope["path"] != "/early":
        await Request(scope, receive).body()
    told = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id"}
    await PlainTextResponse("read", 413 if scope["path"] == "/early" else 200, told)(scope, receive, send)


@pytest.fixture
def port(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    monkeypatch.setattr(front, "HEADERS_TIMEOUT_S", 0.5)
    monkeypatch.setattr(auto, "AutoHTTPProtocol", auto.AutoHTTPProtocol)  # as it was, afterwards
    assert front.guarded() == []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        running = threading.Thread(target=server.run, args=([listening],), daemon=True)
        running.start()
        yield listening.getsockname()[1]
        server.should_exit = True
        running.join(10)


def begun(port: int, sent: bytes) -> socket.socket:
    told = socket.create_connection(("127.0.0.1", port), timeout=20)
    told.sendall(sent)
    return told


def closed(told: socket.socket) -> bool:
    """Once there is something to read, whether that is the end."""
    try:
        return told.recv(65536) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-a: "])
def test_headers_that_stop_are_closed(port: int, sent: bytes) -> None:
    assert closed(begun(port, sent))


def test_headers_that_come_byte_by_byte_are_closed(port: int) -> None:
    slow = begun(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-a: ")

    while not select.select([slow], [], [], 0.01)[0]:
        slow.send(b"a")

    assert closed(slow)


@pytest.mark.parametrize("more", [b"a" * 65536, b"X-a: b\r\n" * 8192])
def test_headers_without_end_are_refused(port: int, more: bytes) -> None:
    endless = begun(port, b"GET / HTTP/1.1\r\nHost: x\r\nX-a: ")

    for _ in range(100):
        try:
            endless.sendall(more)
        except OSError:  # refused, and closed
            break
    else:
        pytest.fail("6 MiB of headers were read")


def test_requests_of_a_connection_follow_each_other(port: int) -> None:
    with requests.Session() as session:
        answers = [session.post(f"http://127.0.0.1:{port}/", data=b"a" * size, timeout=20) for size in (0, 10, 1 << 20)]

    assert [answer.text for answer in answers] == ["read"] * 3


@pytest.mark.parametrize(("id", "told"), [("a-1", "a-1"), ("a" * 129, None), ("\x80\xff", None), ("a b", None)])
def test_an_id_that_ray_serves_proxy_fails_over_is_left_out(port: int, id: str, told: str | None) -> None:
    headers = {"X-Request-ID": id.encode("latin-1")}

    answer = requests.post(f"http://127.0.0.1:{port}/", headers=headers, timeout=20)

    assert answer.headers.get("x-request-id") == told


def test_a_slow_body_may_take_longer_than_headers(port: int) -> None:
    slow = begun(port, b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n")

    assert select.select([slow], [], [], 0.8)[0] == []  # longer than its headers might
    slow.sendall(b"a" * 10)

    assert b" 200 " in slow.recv(65536)


def test_who_is_refused_before_the_end_of_the_body_is_told_and_left(port: int) -> None:
    slow = begun(port, b"POST /early HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n")
    told = b""

    while part := slow.recv(65536):
        told += part

    assert b" 413 " in told and told.endswith(b"read")


@pytest.mark.parametrize("file", ["cluster.yaml", "deploy/Containerfile", "docs/serving.md"])
def test_who_starts_ray_otherwise_is_told_the_same_settings(file: str) -> None:
    text = (Path(__file__).parents[3] / file).read_text(encoding="utf-8")
    assert [name for name, value in front.SETTINGS.items() if f"{name}={value}" not in text] == []
