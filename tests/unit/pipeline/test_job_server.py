"""The way to a job server: every mistake is one message, in seconds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from fettle.errors import UserError
from fettle.pipeline import job_server
from fettle.pipeline.job_server import connect
from fettle.serving.port import free_port


class _Answer(BaseHTTPRequestHandler):
    status = 404

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()
        self.wfile.write(b"Unauthorized: Missing authentication token" if self.status == 401 else b"")

    def log_message(self, *told: object) -> None:
        pass


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Something that answers, and is no job server of ours."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_where_nobody_listens_is_told(monkeypatch):
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    with pytest.raises(
        UserError, match=rf"^--address: no Ray job server answers at http://{address} \(Connection refused"
    ):
        connect(None)


def test_a_web_server_that_is_no_rays_is_told(web):
    with pytest.raises(UserError, match=rf"no Ray job server answers at {web} \(Version check returned 404"):
        connect(web)


def test_a_server_that_wants_a_token_says_where_it_belongs(web, monkeypatch):
    monkeypatch.setattr(_Answer, "status", 401)
    with pytest.raises(UserError, match=r"wants a token.*\n  fix: put the cluster's token into ~/.ray/auth_token"):
        connect(web)


def test_a_server_that_never_answers_is_not_waited_for(monkeypatch):
    import socket

    monkeypatch.setattr(job_server, "_ANSWER_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UserError, match="no answer in 0.2 s"):
        connect(f"http://127.0.0.1:{silent.getsockname()[1]}")
