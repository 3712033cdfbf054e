"""`fettle compare`: what two runs did differently, and what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.runs import InOption, TrackerOption, near, tracked_runs, when
from fettle.cli.table import lines_of

_Run = Annotated[str, typer.Argument(help="A run's name (its latest), folder, or id, as `fettle runs` lists them.")]
_LONGEST = 60


def compare_command(one: _Run, other: _Run, folder: InOption = Path("runs"), tracker: TrackerOption = None) -> None:
    """Show which settings and which data differ between two runs, and their results side by side."""
    from fettle.pipeline.tracked_runs import differences, find_run

    runs = tracked_runs(folder, tracker)
    pair = find_run(runs, one), find_run(runs, other)
    rows: list[tuple[str, ...]] = [
        ("run", "", *(f"{run.name} ({run.id[:8]})" for run in pair)),
        ("began", "", *(when(run) for run in pair)),
        ("state", "", *(run.state for run in pair)),
        ("folder", "", *(near(run.out) for run in pair)),
    ]
    found = list(differences(*pair))
    for part, nothing in (("recipe", "no setting differs"), ("data", "the very same")):
        if not any(row[0] == part for row in found):
            rows.append((part, nothing, "", ""))
        rows += [(part, key, _short(mine), _short(others)) for what, key, mine, others in found if what == part]
    rows += [(part, key, mine or "–", others or "–") for part, key, mine, others in found if part == "result"]
    for line in lines_of(("", "", "one", "other"), rows):
        typer.echo(line)


def _short(text: str) -> str:
    return (text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…") or "–"
