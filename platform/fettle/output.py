"""Where what a process prints, and what it may make again, goes."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder(name: str) -> Path:
    """`~/.cache/fettle/NAME`, or `$XDG_CACHE_HOME/fettle/NAME`; it may not exist, and may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fettle" / name


def print_into(file: str | Path) -> None:
    """Sends standard output and error of this process, its C libraries' too, to the end of `file`."""
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    target = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(target, 1)
    os.dup2(target, 2)
    os.close(target)
