"""`fettle serve` as a process of its own, the way a user runs it."""

from __future__ import annotations

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


@dataclass
class Live:
    """A running `fettle serve`: its process, its address, and what it has printed."""

    process: subprocess.Popen[str]
    url: str
    printed: list[str] = field(default_factory=list)
    polled: list[int] = field(default_factory=list)

    def get(self, path: str) -> requests.Response:
        return requests.get(self.url + path, timeout=30)

    def post(self, path: str, body: dict[str, Any], **more: Any) -> requests.Response:
        return requests.post(self.url + path, json=body, timeout=120, **more)

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
