"""The process that sends: `python -m fettle.pipeline.sending OUT/.storage/run.json` looks for what is new until its
standard input ends. It prints lines for the driver to tell, each behind `say `, and empty ones while it is at work."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from fettle.pipeline.recorded import alone
from fettle.pipeline.sender import Sender, TakenOver
from fettle.pipeline.storage import ENDED, Storage, reason_of
from fettle.recipe.storage import StorageSpec

_GIVES_UP_S = 60.0  # how long storage may not take anything, once the run is over
_EVERY_S = 2.0


def _print(line: str) -> None:
    with suppress(OSError):  # of a driver that was killed
        print(line, flush=True)


def main(record: Path) -> int:
    """Sends until standard input ends, and then the rest; 0 where all is there, else 1, which it has told of."""
    told = json.loads(record.read_text(encoding="utf-8"))
    os.nice(5)  # those who train go first
    with alone(record.parent, waits=True):
        folder = Path(told["folder"]) if told["folder"] else None
        storage = Storage(StorageSpec(**told["storage"]), folder, told["name"])
        sender = Sender(storage, record.parents[1], told["token"], lambda: _print(""))
        try:
            return _follow(sender)
        except TakenOver as error:
            _print(f"say storage   {storage.said}: {error}; nothing more is sent from here")
            return 1


def _follow(sender: Sender) -> int:
    said, is_over, has_ended, down_since, wait = sender.storage.said, False, False, 0.0, _EVERY_S
    while True:
        try:
            sender.send(is_over)
        except OSError as error:
            print(f"not sent: {error}", file=sys.stderr, flush=True)
            if is_over and down_since and time.monotonic() - down_since > _GIVES_UP_S:
                _print(
                    f"say storage   not all of it is in {said} ({reason_of(error)}); the same command sends the rest"
                )
                return 1
            if not down_since:
                goes_on = f"tried for {_GIVES_UP_S:.0f} s more" if is_over else "the run goes on, and it is tried again"
                _print(f"say storage   {said} does not take what is new ({reason_of(error)}); {goes_on}")
                down_since = time.monotonic()
            wait = min(2 * wait, 60.0)
        else:
            if down_since:
                _print(f"say storage   {said} takes what is new again")
            if is_over:
                break
            down_since, wait = 0.0, _EVERY_S
        if is_over:
            time.sleep(min(wait, 10.0))
        elif select.select([sys.stdin], [], [], wait)[0]:
            is_over, has_ended = True, sys.stdin.readline() == "over\n"
            down_since = down_since and time.monotonic()
    if has_ended:  # and its driver was not killed
        with suppress(OSError):
            sender.storage.write(ENDED, sender.token.encode())
    _print(f"say storage   all of it is in {said}")
    return 0


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # `ray job stop` sends it to all of a driver's children
    sys.exit(main(Path(sys.argv[1])))
