"""An OpenAI-compatible endpoint on loopback that judges by a rule, and fails as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Failure:
    """An answer that is none."""

    status: int
    text: str = ""
    headers: dict[str, str] = field(default_factory=dict)


class JudgeServer(ThreadingHTTPServer):
    """rule: from a question's text to the judge's answer. failures: given in its place, the first first. asked: the
    bodies; keys: what came as Authorization; most_at_once: questions that were under way together."""

    daemon_threads = True

    def __init__(self, rule: Callable[[str], str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.rule, self.failures = rule, list[Failure]()
        self.asked, self.keys = list[dict[str, Any]](), list[str | None]()
        self.under_way = self.most_at_once = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def answer(self, path: str, body: dict[str, Any], key: str | None) -> Failure | str:
        with self.lock:
            self.asked.append(body)
            self.keys.append(key)
            if self.failures:
                return self.failures.pop(0)
        assert path == "/v1/chat/completions"
        return self.rule(body["messages"][-1]["content"])


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer

    def do_GET(self) -> None:
        self._send(200, json.dumps({"object": "list", "data": []}), {})

    def do_POST(self) -> None:
        with self.server.lock:
            self.server.under_way += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.under_way)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = self.server.answer(self.path, body, self.headers.get("Authorization"))
        with self.server.lock:
            self.server.under_way -= 1
        if isinstance(said, Failure):
            self._send(said.status, said.text, said.headers)
        else:
            self._send(200, json.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]}), {})

    def _send(self, status: int, text: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def answers_in(question: str) -> tuple[str, str]:
    """Answer A and answer B, out of what a judge is asked."""

    def between(name: str) -> str:
        return question.partition(f"[Start of {name}]\n")[2].partition(f"\n[End of {name}]")[0]

    return between("answer A"), between("answer B")


@contextmanager
def judge_server(rule: Callable[[str], str]) -> Iterator[JudgeServer]:
    """Listening meanwhile."""
    server = JudgeServer(rule)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
