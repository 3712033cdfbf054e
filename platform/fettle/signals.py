"""SIGINT and SIGTERM as an exception, once; the clean-up that follows is not interrupted again."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from fettle.errors import Interrupted

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _Stopped(KeyboardInterrupt):
    """Carries the signal's name."""


@contextmanager
def interruptible(told: str = "") -> Iterator[None]:
    """Raises Interrupted, with `told` behind the signal's name, where either signal comes in the main thread.

    Inside the block it is a KeyboardInterrupt, which nobody who catches Exception and tries again (as at ray.init)
    takes for a failure. The handlers are set explicitly because a script's background child inherits SIGINT as ignored.
    Does nothing outside the main thread, or within another such block.
    """
    if threading.current_thread() is not threading.main_thread() or _armed():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> None:
        for one in SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise _Stopped(signal.Signals(number).name)

    interrupt.is_fettles = True  # type: ignore[attr-defined]
    with handlers_kept():
        for number in SIGNALS:
            signal.signal(number, interrupt)
        try:
            yield
        except _Stopped as stopped:
            raise Interrupted(f"stopped by {stopped}{told}") from None


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Puts the handlers back that the block replaces; ray.init sets its own for SIGTERM."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _armed() -> bool:
    return any(getattr(signal.getsignal(number), "is_fettles", False) for number in SIGNALS)
