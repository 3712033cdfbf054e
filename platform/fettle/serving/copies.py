"""Folders of a process's own below the machine's temporary one, which the next process removes where it has died."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from pathlib import Path

_LOCK = ".lock"
_JUST_MADE_S = 60
_locks: list[int] = []  # held until the process ends, however it does


def own_folder(prefix: str) -> Path:
    """A new one. Those with that prefix whose process is gone are removed."""
    for other in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        if _is_abandoned(other / _LOCK):
            shutil.rmtree(other, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    lock = os.open(folder / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    _locks.append(lock)
    return folder


def _is_abandoned(file: Path) -> bool:
    """Whether nobody holds the lock; a folder that was just made is about to be locked."""
    try:
        if time.time() - file.stat().st_mtime < _JUST_MADE_S:
            return False
        lock = os.open(file, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
