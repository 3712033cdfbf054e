"""The driver's side of storage: starts the process that sends what the run comes to, and waits for it at the end.
Nothing that trains knows of it."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from fettle.errors import Interrupted
from fettle.pipeline.storage import FOLDER
from fettle.pipeline.taking_up import RECORD
from fettle.recipe import Recipe

INTERRUPTED_WAITS_S = 60.0
"""How long an interrupted run goes on sending at most."""
_TOLD_AFTER_S = 5.0
_SILENT_S = 180.0  # longer than storage's own time-outs take, with their repetitions


@contextmanager
def mirrored(recipe: Recipe, out: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Has what the run inside comes to sent to the recipe's storage, where `take_up` has been; lines are said where it
    is not. Raises nothing of its own. At the end it waits until all is there, or storage does not answer for a minute.
    """
    if recipe.storage is None:
        yield
        return
    try:
        sender = _Sending(out, say)
    except OSError as error:
        say(f"storage   nothing is sent: {error}")
        yield
        return
    most = float("inf")
    try:
        yield
    except BaseException as failed:
        if isinstance(failed, (KeyboardInterrupt, Interrupted)):  # inside the run an interrupt is a KeyboardInterrupt
            most = INTERRUPTED_WAITS_S
        raise
    finally:
        sender.finish(most)


class _Sending:
    """The process, which sends until its standard input ends."""

    def __init__(self, out: Path, say: Callable[[str], None]) -> None:
        self._say, self._out, self._heard_at, self._is_told = say, out, time.monotonic(), False
        (out / "logs").mkdir(exist_ok=True)
        with open(out / "logs" / "storage.log", "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "fettle.pipeline.sending", str(out / FOLDER / RECORD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,  # Ctrl-C is the run's, which lets it end
            )
        self._thread = threading.Thread(target=self._listen, name="storage", daemon=True)
        self._thread.start()

    def finish(self, most: float) -> None:
        """Lets it send the rest, for `most` seconds, and says where not all is there."""
        assert self._process.stdin is not None
        began = self._heard_at = time.monotonic()
        with suppress(OSError):  # of one that has ended already
            self._process.stdin.write("over\n")
            self._process.stdin.close()
        is_waiting = False
        try:
            while self._process.poll() is None:
                now = time.monotonic()
                if now - began > most or now - self._heard_at > _SILENT_S:
                    break
                if now - began > _TOLD_AFTER_S and not is_waiting:
                    limit = f", for {most:.0f} s at most" if most < float("inf") else ""
                    self._say(f"storage   the rest is being sent{limit}")
                    is_waiting = True
                time.sleep(0.05)
        finally:
            self._process.kill()
            self._process.wait()
            self._thread.join(5)
            if self._process.returncode not in (0, 1):  # else it has told itself
                log = self._out / "logs" / "storage.log"
                self._say(f"storage   not all of it is there (see {log}); the same command sends the rest")

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._heard_at = time.monotonic()
            if line.startswith("say "):
                self._say(line[4:].rstrip())
