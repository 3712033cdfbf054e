"""Files that trials share: locks, and checkpoints that are held for others."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_HELD = 2  # another trial is never more than a round behind
_POLL_S = 0.05


def hold(checkpoint: Path, held: Path) -> None:
    """A second name for a checkpoint's files, for when its stage has dropped it; of the newest two."""
    target = held / checkpoint.name
    if not target.is_dir():
        partial = held / f".{checkpoint.name}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(checkpoint, partial, copy_function=_linked)
        os.rename(partial, target)
    for old in sorted(held.glob("step-*"))[:-_HELD]:
        shutil.rmtree(old, ignore_errors=True)


@contextmanager
def one_of(files: Sequence[Path]) -> Iterator[None]:
    """No other process has the file locked inside that this one has: so many can be inside as there are files."""
    files[0].parent.mkdir(parents=True, exist_ok=True)
    while True:
        for file in files:
            with open(file, "w", encoding="utf-8") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue
                yield
                return
        time.sleep(_POLL_S)


def _linked(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # a file system without
        shutil.copy2(source, target)
    return target
