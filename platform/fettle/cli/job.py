"""`python -m fettle.cli.job [--retries N] VERB WORDS`: a verb as a Ray job's entry point, begun again where it dies.

Ray runs an entry point once: "retries should be handled by the submitter". This is done here, beside the driver, and so
goes on when nobody follows the job. What died goes on by itself, as every verb does that is called twice with the same
`--out`. Nothing here imports Ray or torch: this process is small, and outlives a driver that ran out of memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

RETRIES = 3
_PAUSE_S = 5
_FAILED, _INTERRUPTED = 1, 130
_VERB = [sys.executable, "-c", "from fettle.cli.main import main; main()"]


def main(given: Sequence[str]) -> None:
    """Exits as the verb does."""
    words, retries = list(given), RETRIES
    if words[:1] == ["--retries"]:
        retries, words = int(words[1]), words[2:]
    sys.exit(supervised([*_VERB, *with_home(words)], retries))


def supervised(command: Sequence[str], retries: int, *, pause_s: float = _PAUSE_S) -> int:
    """The exit code of a command that is begun again, `retries` times at most, where a signal ended it, or it exits 1:
    a failure of ours, or of a machine. A second failure in a row is one that stays. What the user has to mend (2), a
    shut gate (3) and an interruption are final.

    SIGTERM and SIGINT are handed on, and then nothing is begun again. pause_s: before the first retry, twice as long
    before each next one.
    """
    is_stopped = False
    driver: subprocess.Popen[bytes] | None = None

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal is_stopped
        if not is_stopped and driver is not None and driver.poll() is None:
            driver.send_signal(number)
        is_stopped = True

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code, before = 0, 0
        for again in range(retries + 1):
            driver = subprocess.Popen(command)
            code, before = driver.wait(), code
            if is_stopped:
                return code if code >= 0 else _INTERRUPTED
            if (code >= 0 and code != _FAILED) or code == before == _FAILED:
                return code
            how = f"was ended by {signal.Signals(-code).name}" if code < 0 else "failed"
            if again < retries:
                told = f"retry {again + 1} of {retries} goes on from where it was"
                print(f"fettle: the job's driver {how}; {told}", file=sys.stderr, flush=True)
                _wait(pause_s * 2**again, lambda: is_stopped)
                if is_stopped:
                    return _INTERRUPTED
        print(f"fettle: the job's driver {how}{', and so did every retry' if retries else ''}", file=sys.stderr)
        return code if code > 0 else _FAILED
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def with_home(words: Sequence[str]) -> list[str]:
    """`--out ~/…` as a path of this machine's user: nothing expands it, since it is quoted for the shell."""
    found = list(words)
    for place, word in enumerate(found):
        if word.startswith("--out=~/"):
            found[place] = f"--out={Path(word[6:]).expanduser()}"
        elif word.startswith("~/") and place and found[place - 1] == "--out":
            found[place] = str(Path(word).expanduser())
    return found


def _wait(seconds: float, is_over: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not is_over():
        time.sleep(0.1)


if __name__ == "__main__":
    os.environ["PYTHONUNBUFFERED"] = "1"
    main(sys.argv[1:])
