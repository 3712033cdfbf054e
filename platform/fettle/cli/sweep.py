"""`fettle sweep`: trials of a recipe with other values of some keys, and the best of them as a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.run import SetOption, check_first, parse_overrides


def sweep_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    sweep: Annotated[
        Path | None,
        typer.Argument(help="A file with the sweep, in place of the recipe's own.", show_default=False),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The sweep's folder; by default runs/NAME-sweep.", show_default=False)
    ] = None,
    set_: SetOption = None,
) -> None:
    """Try many settings of a recipe, and write the best one down as OUT/best.yaml; what was interrupted goes on."""
    overrides = parse_overrides(set_ or [])
    check_first(recipe, overrides, sweep)
    from fettle.tune.sweep import sweep as run_sweep

    run_sweep(recipe, sweep, out=out, set=overrides)
