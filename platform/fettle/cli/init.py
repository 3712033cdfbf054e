"""`fettle init`: a first recipe for a task and its data."""

from __future__ import annotations

import math
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.data.sources import SetOption, specs_of
from fettle.errors import UserError, did_you_mean
from fettle.recipe.tasks import TASKS, Task, task_of


def init_command(
    task: Annotated[str, typer.Option(metavar="TASK", help=f"{', '.join(TASKS)}.", show_default=False)],
    data: Annotated[
        list[str], typer.Option(help="Records to learn from: a file, a glob, a folder; repeatable.", show_default=False)
    ],
    base: Annotated[str, typer.Option(help="tiny, a model's folder, or a hub id.")] = "tiny",
    out: Annotated[Path, typer.Option(help="The recipe; what it holds out lies beside it.")] = Path("recipe.yaml"),
    heldout: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Held-out records, if there are; else a tenth, at most 200, is split off."),
    ] = None,
    goal: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORE=N", help="What the result has to reach, as rouge1=0.3; repeatable."),
    ] = None,
    gain: Annotated[
        list[str] | None,
        typer.Option(metavar="SCORE=N", help="How much better than the base it has to be; repeatable."),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Write a first recipe: it holds records out, trains on the others, and says whether the goal is met."""
    of = task_of(task)
    bounds = {"goals": _bounds("--goal", goal, of, task), "gains": _bounds("--gain", gain, of, task)}
    specs = specs_of(data, set_)
    from fettle.pipeline.first_recipe import first_recipe

    command = shlex.join(["fettle", *sys.argv[1:]])
    done = first_recipe(task, specs, out, base=base, heldout=heldout, command=command, **bounds)
    typer.echo(f"recipe    {done.recipe}")
    typer.echo(f"learns    {done.records:,} records: {', '.join(done.train)}")
    typer.echo(f"held out  {done.heldout}")
    typer.echo(f"goal      {done.goal}")
    typer.echo(f"train it  fettle run {shlex.quote(str(done.recipe))}")


def _bounds(option: str, pairs: list[str] | None, task: Task, name: str) -> dict[str, float]:
    """`["rouge1=0.3"]` as `{"rouge1": 0.3}`. Raises UserError for what is no score of the task, or no number."""
    found = {}
    for pair in pairs or []:
        score, _, value = pair.partition("=")
        if score not in task.scores:
            raise UserError(
                f"{option} {pair}: no score '{score}' of {name}{did_you_mean(score, task.scores)}",
                expected=", ".join(task.scores),
            )
        try:
            found[score] = float(value)
        except ValueError:
            found[score] = math.nan
        if not math.isfinite(found[score]):
            raise UserError(f"{option} {pair}", expected=f"{option} {score}=NUMBER")
    return found
