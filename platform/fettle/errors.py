"""The errors fettle raises on purpose.

FettleError                 something of ours failed; the command line exits with `exit_code`
├── UserError       (2)     the user's mistake: where it is, what was got, what is expected, how to fix it
├── DoesNotFit      (2)     the plan asks for more than this machine or cluster has
├── GateFailed      (3)     a result is not as good as the recipe wants
├── StageFailed     (1)     a stage's workers died; carries the log to read
└── Interrupted     (130)   SIGINT or SIGTERM
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

_DISK = {
    errno.ENOSPC: "make room there; nothing was left half-written",
    errno.EDQUOT: "make room there; nothing was left half-written",
    errno.EROFS: "name a place that may be written to",
    errno.EACCES: "name a place that you may write to, or a file that you may read",
    errno.EPERM: "name a place that you may write to",
}


class FettleError(Exception):
    """Base of everything fettle raises on purpose; `exit_code` is what the command line exits with."""

    exit_code = 1


class UserError(FettleError):
    """A mistake in what the user gave us.

    got: what is wrong, one sentence. file, line, field: where (line counts from 1; field is a dotted path).
    expected: what would be accepted. fix: the next thing to do.
    """

    exit_code = 2

    def __init__(
        self,
        got: str,
        *,
        file: str | Path | None = None,
        line: int | None = None,
        field: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        self.got, self.file, self.line, self.field, self.expected, self.fix = got, file, line, field, expected, fix
        super().__init__(self.render())

    def __reduce__(self) -> tuple[object, ...]:  # crosses Ray's process border with its parts intact
        return (_rebuild, (type(self), self.got, self.file, self.line, self.field, self.expected, self.fix))

    def render(self) -> str:
        """`file:line: field: what is wrong`, then an indented `expected:` and `fix:` line where there is one."""
        place = str(self.file) if self.file is not None else ""
        if self.line is not None:
            place += f":{self.line}"
        head = ": ".join(part for part in (place, self.field or "", self.got) if part)
        tail = [f"  expected: {self.expected}" if self.expected else "", f"  fix: {self.fix}" if self.fix else ""]
        return "\n".join([head, *(part for part in tail if part)])


class DoesNotFit(UserError):
    """More workers, memory, disk or ports than there are."""


class StageFailed(FettleError):
    """A stage's worker group failed; the message names the stage, the cause and the log file."""


class GateFailed(FettleError):
    """The run's result is kept, and not published; the message tells each score that was not reached."""

    exit_code = 3


class Interrupted(FettleError):
    """The run was stopped by SIGINT or SIGTERM; what was finished stays and the next run goes on from there."""

    exit_code = 130


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`" (did you mean 'epochs'?)"` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean '{near[0]}'?)" if near else ""


def of_the_disk(error: OSError) -> UserError | None:
    """A full disk, or one that may not be written to, as a mistake that can be mended; None for any other error."""
    number, file = error.errno, error.filename2 or error.filename
    if isinstance(error, shutil.Error) and (found := re.search(r"\[Errno (\d+)\]", str(error))):  # of many files
        number, file = int(found[1]), error.args[0][0][1]
    if number not in _DISK:
        return None
    return UserError(os.strerror(number), file=file, fix=_DISK[number])


def _rebuild(
    cls: type[UserError],
    got: str,
    file: str | Path | None,
    line: int | None,
    field: str | None,
    expected: str | None,
    fix: str | None,
) -> UserError:
    return cls(got, file=file, line=line, field=field, expected=expected, fix=fix)
