"""Kills a process between any two of its file operations."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_TOUCHES_FILES = frozenset(("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link"))


def killed_everywhere(folders: Iterator[Path], act: Callable[[Path], Any], most: int = 200) -> Iterator[Path]:
    """Does `act` in one folder after the other, each time in a process that is killed one file operation later than the
    time before; yields each folder after that, and ends with one in which it was done to its end."""
    for number in range(1, most):
        folder = next(folders)
        pid = os.fork()
        if pid == 0:
            _die_before(number, folder)
            act(folder)
            os._exit(0)
        status = os.waitpid(pid, 0)[1]
        yield folder
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            return
        assert os.WTERMSIG(status) == signal.SIGKILL
    raise AssertionError(f"not done after {most} file operations")


def _die_before(number: int, folder: Path) -> None:
    """This process is killed right before it touches a file below the folder, or syncs one, the `number`-th time."""
    left = [number]

    def count() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def look(event: str, told: tuple[Any, ...]) -> None:
        if event in _TOUCHES_FILES and any(str(folder) in str(path) for path in told if isinstance(path, (str, Path))):
            count()

    sync = os.fsync

    def counted(handle: int) -> None:
        count()
        sync(handle)

    sys.addaudithook(look)
    os.fsync = counted
