"""The line that tells how far training is, and what keeps libraries off the terminal."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pytest
from rich.console import Console

from fettle.pipeline.console import ProgressLine, describe, duration
from fettle.train.progress import StepRow


@dataclass(frozen=True)
class Job:
    """What a progress line reads of a job."""

    name: str
    progress: Path


def rows(*seconds: float, steps: int = 100, tokens: int = 100, loss: float = 2.0) -> list[StepRow]:
    return [
        StepRow(i, steps, loss, lr=1e-3, grad_norm=1.0, tokens=tokens, loss_tokens=9, seconds=s, time=1000 + s)
        for i, s in enumerate(seconds, start=1)
    ]


def append(file: Path, written: Sequence[StepRow]) -> None:
    """The rows as a worker writes them."""
    with open(file, "a") as stream:
        stream.writelines(json.dumps(asdict(row)) + "\n" for row in written)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0, "0 s"), (45.4, "45 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (3599, "59 min 59 s"), (7500, "2 h 5 min")],
)
def test_a_duration_is_told_in_the_two_units_that_matter(seconds, told):
    assert duration(seconds) == told


def test_the_line_tells_step_loss_speed_and_time_left():
    # 100 tokens each half second are 200 tokens/s; 97 more steps take 48.5 s.
    told = describe("domain", rows(0.5, 1.0, 1.5))
    assert told.split() == ["domain", "step", "3/100", "loss", "2.000", "200", "tokens/s", "48", "s", "left"]


def test_the_first_step_tells_no_speed_that_start_up_spoils():
    assert "left" not in describe("domain", rows(0.5)) and "step 1/100" in describe("domain", rows(0.5))


def test_the_speed_is_that_of_the_last_twenty_steps():
    # Thirty steps of 1 s, then twenty of 0.1 s.
    spent = [float(i) for i in range(1, 31)] + [30 + 0.1 * i for i in range(1, 21)]
    assert "  1,000 tokens/s  " in describe("domain", rows(*spent))


def test_the_last_step_tells_how_long_it_took():
    assert describe("domain", rows(30.0, 60.0, 90.0, steps=3)).endswith("in 1 min 30 s")


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


def line_over(screen: io.StringIO, *jobs: Job, is_terminal: bool = True) -> ProgressLine:
    console = Console(file=screen, force_terminal=is_terminal, width=100, highlight=False, color_system=None)
    return ProgressLine(console, jobs)  # type: ignore[arg-type]


def shown(screen: io.StringIO) -> list[str]:
    """What a terminal shows: of each line what was written over it last."""
    return [line.rpartition("\r\x1b[2K")[2] for line in screen.getvalue().split("\n")]


def test_what_workers_write_is_shown_and_rewritten_in_place(tmp_path, screen):
    job = Job("domain", tmp_path / "progress.jsonl")
    line = line_over(screen, job)
    line.update()
    assert screen.getvalue() == ""
    for written in (rows(1, 2)[:1], rows(1, 2)[1:]):
        append(job.progress, written)
        line.update()
    (only,) = shown(screen)
    assert only.startswith("domain       step 2/100  loss 2.000  100 tokens/s")
    assert screen.getvalue().count("\r\x1b[2K") == 2


def test_an_open_line_is_ended_once(tmp_path, screen):
    job = Job("domain", tmp_path / "progress.jsonl")
    line = line_over(screen, job)
    append(job.progress, rows(1, 2))
    line.update()
    line.close()
    line.close()
    assert screen.getvalue().count("\n") == 1


def test_steps_of_an_earlier_run_are_not_shown_again(tmp_path, screen):
    job = Job("domain", tmp_path / "progress.jsonl")
    append(job.progress, rows(1, 2))
    line = line_over(screen, job)
    line.update()
    assert screen.getvalue() == ""


def test_a_finished_stage_keeps_its_line_and_the_next_has_another(tmp_path, screen):
    jobs = Job("domain", tmp_path / "a"), Job("task", tmp_path / "b")
    line = line_over(screen, *jobs)
    append(jobs[0].progress, rows(1, 2, steps=2))
    append(jobs[1].progress, rows(3, 4, steps=5))
    line.update()
    first, second = shown(screen)
    assert first.startswith("domain       step 2/2") and second.startswith("task         step 2/5")


def test_the_next_stages_speed_is_its_own(tmp_path, screen):
    jobs = Job("domain", tmp_path / "a"), Job("task", tmp_path / "b")
    line = line_over(screen, *jobs)
    append(jobs[0].progress, rows(1, 2, 3, steps=3))
    append(jobs[1].progress, rows(0.1, 0.2, steps=5))
    line.update()
    assert "  1,000 tokens/s  " in shown(screen)[1]


@pytest.mark.parametrize("repeated", [0, 2])
def test_an_attempt_that_goes_on_from_a_checkpoint_has_a_speed_of_its_own(tmp_path, screen, repeated):
    job = Job("domain", tmp_path / "progress.jsonl")
    line = line_over(screen, job)
    append(job.progress, rows(10, 20, 30, 40))  # 10 tokens/s
    line.update()
    # The second attempt begins `repeated` steps earlier, at 100 tokens/s; its clock begins again.
    append(job.progress, [replace(row, step=row.step + 4 - repeated) for row in rows(1, 2, 3)])
    line.update()
    assert "  100 tokens/s  " in shown(screen)[-1]


def test_a_file_gets_a_line_at_the_end_of_a_stage_and_no_codes(tmp_path, screen):
    job = Job("domain", tmp_path / "progress.jsonl")
    line = line_over(screen, job, is_terminal=False)
    append(job.progress, rows(1, 2, 3, steps=3))
    line.update()
    assert screen.getvalue() == "domain       step 3/3  loss 2.000  100 tokens/s  in 3 s\n"


def test_a_line_longer_than_the_terminal_is_cut(tmp_path, screen):
    job = Job("d" * 64, tmp_path / "progress.jsonl")
    line = line_over(screen, job)
    append(job.progress, rows(1, 2))
    line.update()
    assert len(shown(screen)[-1]) == 99


def output_of(program: str, *args: object) -> str:
    """What a Python program leaves on its standard output and error, which are one here."""
    words = [sys.executable, "-c", textwrap.dedent(program), *(str(arg) for arg in args)]
    return subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout


def test_noise_goes_to_the_log_and_the_console_to_the_terminal(tmp_path):
    program = """
        import os, subprocess, sys
        from pathlib import Path
        from fettle.pipeline.console import quiet

        with quiet(Path(sys.argv[1])) as console:
            print("a library talks")
            os.write(2, b"C code complains\\n")
            subprocess.run(["sh", "-c", "echo a child talks"], check=True)
            console.print("what matters")
        print("afterwards")
    """
    log = tmp_path / "logs" / "run.log"
    assert output_of(program, log) == "what matters\nafterwards\n"
    assert sorted(log.read_text().splitlines()) == ["C code complains", "a child talks", "a library talks"]


def test_after_an_error_the_terminal_is_back_and_the_log_is_continued(tmp_path):
    program = """
        import sys
        from contextlib import suppress
        from pathlib import Path
        from fettle.pipeline.console import quiet

        with suppress(ValueError), quiet(Path(sys.argv[1])):
            print("now", file=sys.stderr)
            raise ValueError
        print("afterwards")
    """
    log = tmp_path / "run.log"
    log.write_text("earlier\n")
    assert output_of(program, log) == "afterwards\n" and log.read_text() == "earlier\nnow\n"
