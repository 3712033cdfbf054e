"""`fettle reproduce`: a run once more, and whether the same comes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.runs import InOption, TrackerOption, near, tracker_uri


def reproduce_command(
    what: Annotated[
        str, typer.Argument(help="A run (name, folder or id), an artifact's folder, NAME@ALIAS or NAME:N.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The second run's folder; by default NAME-reproduced beside the first.", show_default=False),
    ] = None,
    folder: InOption = Path("runs"),
    tracker: TrackerOption = None,
    registry: Annotated[
        Path | None, typer.Option(envvar="FETTLE_REGISTRY", help="The registry's folder, for NAME@ALIAS and NAME:N.")
    ] = None,
    changed: Annotated[
        bool, typer.Option("--changed", help="Go on where data, code or a base have changed since.")
    ] = False,
    within: Annotated[
        float | None,
        typer.Option(min=0, help="Nats a token that losses may differ by; else weights have to be the same."),
    ] = None,
) -> None:
    """Run a run again, from what it wrote down, in a new folder, and compare: weights bit for bit, else the losses step
    by step. Nothing is published. Exits 3 where it differs."""
    from fettle.pipeline.reproduce import reproduce

    told = reproduce(
        what,
        out=out,
        runs=folder,
        registry=registry,
        tracker=tracker_uri(folder, tracker),
        is_changed_taken=changed,
        within=within,
        say=typer.echo,
    )
    typer.echo(f"reproduced {told.verdict} ({near(told.out)})")
    if not told.is_met:
        raise typer.Exit(3)
