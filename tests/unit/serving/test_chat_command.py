"""`fettle chat` against an endpoint of thirty lines that speaks OpenAI's format."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fettle.cli.chat import Conversation, chat_command
from fettle.errors import FettleError, UserError

app = typer.Typer()
app.command()(chat_command)


class Endpoint(BaseHTTPRequestHandler):
    """Answers with the number of messages it was sent; three are all its context holds."""

    asked: list[dict[str, Any]]
    breaks_off = False

    def do_GET(self) -> None:
        self._send(200, {"data": [{"id": "base"}, {"id": "support"}]})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(body)
        if len(body["messages"]) > 3:
            return self._send(400, {"error": {"message": "This model's maximum context length is 3 messages"}})
        if "refuse" in body["messages"][-1]["content"]:
            return self._send(400, {"error": {"message": "no chat template"}})
        self.send_response(200)
        self.end_headers()
        for piece in ("I heard ", f"{len(body['messages'])} messages"):
            self.wfile.write(f"data: {json.dumps({'choices': [{'delta': {'content': piece}}]})}\n\n".encode())
        if not self.breaks_off:
            self.wfile.write(b"data: [DONE]\n\n")
        return None

    def _send(self, status: int, body: object) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[str]:
    Endpoint.asked, Endpoint.breaks_off = [], False
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def run(*words: str, typed: str = "") -> Any:
    return CliRunner().invoke(app, list(words), input=typed)


def test_once_prints_the_answer_and_nothing_else(endpoint: str) -> None:
    result = run(endpoint, "--once", "Hello", "--temperature", "0")

    assert (result.exit_code, result.stdout) == (0, "I heard 1 messages\n")
    assert Endpoint.asked == [
        {
            "model": "support",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
            "max_tokens": 256,
            "temperature": 0.0,
        }
    ]


def test_each_line_from_a_pipe_is_a_turn(endpoint: str) -> None:
    result = run(endpoint, typed="Hello\n\nAgain\n/new\nAnew\n")

    assert result.stdout == "I heard 1 messages\nI heard 3 messages\nI heard 1 messages\n"


def test_oldest_turns_are_dropped_when_the_context_is_full(endpoint: str) -> None:
    talk = Conversation(endpoint, "base")

    answers = ["".join(talk.ask(question)) for question in "abc"]

    assert answers == ["I heard 1 messages", "I heard 3 messages", "I heard 3 messages"]
    assert [turn["content"] for turn in talk.turns if turn["role"] == "user"] == ["b", "c"]


def test_refused_turn_is_the_users_mistake_and_leaves_no_trace(endpoint: str) -> None:
    talk = Conversation(endpoint, "base")

    with pytest.raises(UserError, match="no chat template"):
        list(talk.ask("refuse this"))

    assert talk.turns == []


def test_answer_that_breaks_off_is_told(endpoint: str) -> None:
    Endpoint.breaks_off = True

    with pytest.raises(FettleError, match="in the middle of an answer"):
        list(Conversation(endpoint, "base").ask("Hello"))


def test_unknown_model_is_refused_with_those_there_are(endpoint: str) -> None:
    result = run(endpoint, "--once", "Hello", "--model", "other")

    assert isinstance(result.exception, UserError) and "base, support" in str(result.exception)


def test_nothing_at_the_url_is_told() -> None:
    result = run("http://127.0.0.1:1", "--once", "Hello")

    assert isinstance(result.exception, UserError) and "nothing answers at" in str(result.exception)
