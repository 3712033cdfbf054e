"""The `fettle` command as a process of its own, the way a user runs it."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil

FETTLE = [sys.executable, "-c", "from fettle.cli.main import main; main()"]


def fettle(*words: str | Path, timeout_s: int = 400) -> subprocess.CompletedProcess[str]:
    """`fettle WORDS`, finished."""
    return subprocess.run([*FETTLE, *map(str, words)], capture_output=True, text=True, timeout=timeout_s)


def started(*words: str | Path) -> subprocess.Popen[str]:
    """`fettle WORDS`, running."""
    return subprocess.Popen([*FETTLE, *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_until(true: Callable[[], object], process: subprocess.Popen[str], timeout_s: int = 240) -> None:
    """Until `true()`; fails if the process ends first or time is up."""
    until = time.monotonic() + timeout_s
    while not true():
        assert process.poll() is None, f"ended early: {process.communicate()[0]}"
        assert time.monotonic() < until, f"nothing happened in {timeout_s} s"
        time.sleep(0.2)


def descendants(process: subprocess.Popen[str]) -> set[psutil.Process]:
    return set(psutil.Process(process.pid).children(recursive=True))


def still_there(processes: set[psutil.Process]) -> list[str]:
    """Names of those that have not ended."""
    _, alive = psutil.wait_procs(processes, timeout=5)
    return [one.name() for one in alive if one.status() != psutil.STATUS_ZOMBIE]
