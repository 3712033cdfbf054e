"""`fettle serve` as a process of its own, the way a user runs it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psutil
import requests

from fettle.serving.port import free_port

# As `fettle serve`, but not dependent on the console script's being installed.
PROGRAM = "import typer; from fettle.cli.serve import serve_command; typer.run(serve_command)"
START_TIMEOUT_S = 240
STOP_TIMEOUT_S = 60
COMPLETE = "/v1/completions"
COUNT = 24  # tokens of a greedy answer


@dataclass
class Live:
    """A running `fettle serve`: its process, its address, and what it has printed."""

    process: subprocess.Popen[str]
    url: str
    printed: list[str] = field(default_factory=list)
    polled: list[int] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30, headers=self.headers)

    def post(self, path: str, body: dict[str, Any], **more: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=120, headers=self.headers, **more)

    def stopped_by(self, number: signal.Signals) -> tuple[int, list[str]]:
        """Exit code, and the names of processes it started that are still there once it has ended."""
        process = psutil.Process(self.process.pid)
        started = set(process.children(recursive=True))
        self.process.send_signal(number)
        until = time.monotonic() + STOP_TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < until:
            try:
                started |= set(process.children(recursive=True))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        code = self.process.wait(STOP_TIMEOUT_S)
        return code, [one.name() for one in started if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


@contextmanager
def live(*words: str) -> Iterator[Live]:
    """`fettle serve WORDS` on a free port, ready; polled are the answers of /ready on the way there."""
    port = free_port()
    command = [sys.executable, "-u", "-c", PROGRAM, *words, "--port", str(port)]
    # As in a script's background job: SIGINT is ignored unless the program says otherwise.
    ignoring = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    finally:
        signal.signal(signal.SIGINT, ignoring)
    running = Live(process, f"http://127.0.0.1:{port}")
    assert process.stdout is not None
    reader = threading.Thread(target=lambda: running.printed.extend(process.stdout or ()), daemon=True)
    reader.start()
    try:
        until = time.monotonic() + START_TIMEOUT_S
        while not any("Ctrl-C" in line for line in running.printed):
            assert process.poll() is None and time.monotonic() < until, "".join(running.printed)
            try:
                running.polled.append(running.get("/ready").status_code)
            except requests.ConnectionError:
                running.polled.append(0)
            time.sleep(0.2)
        yield running
    finally:
        if process.poll() is None:
            running.stopped_by(signal.SIGTERM)
        reader.join(5)


def greedy(at: Live, model: str, prompt: list[int], count: int = COUNT) -> tuple[list[int], list[float]]:
    """Token ids and log-probabilities of a greedy answer."""
    body = {"model": model, "prompt": prompt, "max_tokens": count, "temperature": 0, "ignore_eos": True, "logprobs": 0}
    answer = at.post(COMPLETE, body | {"return_tokens_as_token_ids": True})
    assert answer.status_code == 200, answer.text
    told = answer.json()["choices"][0]["logprobs"]
    return [int(token.removeprefix("token_id:")) for token in told["tokens"]], told["token_logprobs"]


def farthest(found: tuple[list[int], list[float]], wanted: tuple[list[int], list[float]]) -> float:
    """Largest distance of a log-probability; infinite where a token differs."""
    if found[0] != wanted[0]:
        return float("inf")
    return max(abs(one - other) for one, other in zip(found[1], wanted[1], strict=True))


def answered_by(at: Live, model: str) -> str:
    """The version that a request to `model` names in its headers; empty where there is no answer."""
    answer = at.post(COMPLETE, {"model": model, "prompt": "Hello", "max_tokens": 1})
    return answer.headers.get("x-fettle-version", "")


def seconds_until(at: Live, model: str, version: str) -> float:
    """How long it takes until `model` is answered by a version."""
    began = time.monotonic()
    while answered_by(at, model) != version:
        assert time.monotonic() < began + 30
        time.sleep(0.02)
    return time.monotonic() - began


def tokens_of(answer: requests.Response) -> tuple[list[int], list[float]]:
    """As `greedy`, of an answer that may be streamed."""
    if not answer.headers["content-type"].startswith("text/event-stream"):
        parts = [answer.json()["choices"][0]["logprobs"]]
    else:
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line][:-1]
        parts = [choice["logprobs"] for event in events for choice in json.loads(event)["choices"]]
    tokens = [int(token.removeprefix("token_id:")) for part in parts for token in part["tokens"]]
    return tokens, [number for part in parts for number in part["token_logprobs"]]
