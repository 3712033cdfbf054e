"""A page in a real browser: Chromium without a window, told what to do in its DevTools protocol."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0")


@dataclass
class Tab:
    """An open page. complaints: what the browser's console has said; asked: every address it has asked for."""

    socket: ClientConnection
    session: str = ""
    complaints: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)

    def tell(self, method: str, **params: Any) -> dict[str, Any]:
        """What the browser answers to a command."""
        number = next(self.numbers)
        told: dict[str, Any] = {"id": number, "method": method, "params": params}
        self.socket.send(json.dumps(told | ({"sessionId": self.session} if self.session else {})))
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return dict(answer["result"])

    def open(self, page: Path, width: int, *, is_dark: bool = False) -> None:
        """Loads a page at a width in CSS pixels, as a phone does it."""
        self.complaints.clear()
        self.asked.clear()
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600}
        self.tell("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self.tell("Emulation.setEmulatedMedia", features=[scheme])
        self.tell("Page.navigate", url=page.as_uri())
        while self._next().get("method") != "Page.loadEventFired":
            pass

    def value(self, expression: str) -> Any:
        """What a JavaScript expression comes to in the page."""
        found = self.tell("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def _next(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.socket.recv(timeout=60))
        method, params = told.get("method"), told.get("params", {})
        if method == "Network.requestWillBeSent":
            self.asked.append(params["request"]["url"])
        elif method in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
            self.complaints.append(json.dumps(params))
        return told


@contextmanager
def browser(folder: Path) -> Iterator[Tab]:
    """A browser with an empty page. folder: its profile's. Skips the test where no Chromium is installed."""
    program = next((found for name in _NAMES if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser to look at the page with: none of {', '.join(_NAMES)} is installed")
    command = [program, *_FLAGS, f"--user-data-dir={folder}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        place = folder / "DevToolsActivePort"
        until = time.monotonic() + 60
        while not (place.is_file() and place.read_text().count("\n")):
            assert process.poll() is None and time.monotonic() < until, "the browser does not start"
            time.sleep(0.1)
        port, path = place.read_text().split("\n")
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as socket:
            tab = Tab(socket)
            target = tab.tell("Target.createTarget", url="about:blank")["targetId"]
            tab.session = tab.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                tab.tell(f"{domain}.enable")
            yield tab
    finally:
        process.terminate()
        process.wait(30)


def look_at_report(page: Path, stages: list[str], parts: list[str], profile: Path) -> None:
    """What has to hold of a run's page on a phone and on a desk, in the light and in the dark."""
    with browser(profile) as tab:
        for width, is_dark in ((360, False), (360, True), (1280, False)):
            tab.open(page, width, is_dark=is_dark)
            assert tab.complaints == []
            assert tab.asked == [page.as_uri()]
            assert tab.value("document.documentElement.scrollWidth") <= width
            assert tab.value("[...document.querySelectorAll('main > section')].map(one => one.id)") == parts
            assert [name for name in tab.value(_SEEN) if name in stages] == stages
            assert tab.value("getComputedStyle(document.body).color") == f"rgb({_INK[is_dark]})"


_INK = ("28, 39, 51", "228, 233, 238")
# The names in the graph of which every letter is within the page.
_SEEN = """
[...document.querySelectorAll('.graph .head > :first-child')].filter(one => {
    const box = one.getBoundingClientRect(), isWhole = one.scrollWidth <= one.clientWidth
    return isWhole && box.width > 0 && box.height > 0 && box.left >= 0 && box.right <= innerWidth
}).map(one => one.textContent)
"""
