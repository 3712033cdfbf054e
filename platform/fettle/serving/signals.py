"""SIGINT and SIGTERM as KeyboardInterrupt, once; the clean-up that follows is not interrupted again."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Within the block either signal raises KeyboardInterrupt in the main thread; yields a function that says so again.

    The handlers are set explicitly because a script's background child inherits SIGINT as ignored, and have to be set
    again after ray.init, which replaces the one for SIGTERM.
    """
    before = [signal.getsignal(one) for one in _SIGNALS]
    heard = False

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        heard = True
        for one in _SIGNALS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    def arm() -> None:
        if not heard:
            for one in _SIGNALS:
                signal.signal(one, on_signal)

    arm()
    try:
        yield arm
    finally:
        for one, handler in zip(_SIGNALS, before, strict=True):
            signal.signal(one, handler if handler is not None else signal.SIG_DFL)
