"""What a run shows on the terminal, while libraries' noise goes to a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from fettle.output import print_into
from fettle.train.job import Job
from fettle.train.progress import StepRow, read_progress


@contextmanager
def quiet(log: Path) -> Iterator[Console]:
    """Yields a console on the real terminal; whatever else this process prints, C code included, is added to `log`."""
    sys.stdout.flush()
    kept = [os.dup(1), os.dup(2)]
    terminal = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    print_into(log)
    try:
        yield Console(file=terminal, highlight=False, soft_wrap=not terminal.isatty())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        terminal.flush()
        for number, saved in enumerate(kept, start=1):
            os.dup2(saved, number)
            os.close(saved)
        terminal.close()


def plain(console: Console) -> Callable[[str], None]:
    """Prints a line as it is, whatever brackets are in it."""
    return lambda text: console.print(text, markup=False)


class ProgressLine:
    """One line a stage that tells step, loss, tokens/s and the time left; rewritten in place on a terminal."""

    def __init__(self, console: Console, jobs: Sequence[Job]) -> None:
        self.console, self.jobs = console, list(jobs)
        self.places = {job.name: read_progress(job.progress)[1] for job in jobs}
        self.rows: list[StepRow] = []
        self.printed_at = time.monotonic()
        self.is_open = False

    def update(self) -> None:
        """Reads what the workers have written since, and draws it."""
        for job in self.jobs:
            new, self.places[job.name] = read_progress(job.progress, self.places[job.name])
            for row in new:
                if self.rows and (row.step <= self.rows[-1].step or row.seconds < self.rows[-1].seconds):
                    self.rows = []  # the next stage, or an attempt that goes on from a checkpoint
                self.rows.append(row)
                done = row.step == row.steps
                # A terminal gets each step; a file a line every ten seconds and the last.
                if done or self.console.is_terminal or time.monotonic() - self.printed_at > 10:
                    self._draw(job.name, self.rows, done)

    def close(self) -> None:
        """Ends a line that is still being rewritten."""
        if self.is_open:
            self.console.print()
            self.is_open = False

    def _draw(self, name: str, rows: Sequence[StepRow], done: bool) -> None:
        text = describe(name, rows)
        if not self.console.is_terminal:
            self.console.print(text)
        else:
            # Past the console, which would drop the carriage return and wrap.
            self.console.file.write(f"\r\x1b[2K{text[: self.console.width - 1]}" + ("\n" if done else ""))
            self.console.file.flush()
            self.is_open = not done
        self.printed_at = time.monotonic()


def describe(name: str, rows: Sequence[StepRow]) -> str:
    """`domain  step 12/90  loss 3.21  8,400 tokens/s  1 min 10 s left`, speed over the last twenty steps; where answers
    are rewarded, their reward in place of the loss."""
    last, recent = rows[-1], rows[-21:]
    told = f"loss {last.loss:.3f}" if last.reward is None else f"reward {last.reward:.3f}"
    head = f"{name:<12} step {last.step}/{last.steps}  {told}"
    if len(rows) == 1:  # the first step warms up; its speed says nothing
        return head
    speed = sum(row.tokens for row in recent[1:]) / max(last.seconds - recent[0].seconds, 1e-9)
    if last.step == last.steps:
        return f"{head}  {speed:,.0f} tokens/s  in {duration(last.seconds)}"
    left = (last.steps - last.step) * sum(row.tokens for row in rows) / len(rows) / max(speed, 1e-9)
    return f"{head}  {speed:,.0f} tokens/s  {duration(left)} left"


def duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min 20 s` or `45 s`."""
    whole = round(seconds)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"
