"""`fettle run`: a recipe's stages, here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.errors import UserError

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Over the recipe's own, e.g. stages.sft.lr=1e-5; repeatable."),
]
UntilOption = Annotated[str | None, typer.Option(metavar="STAGE", help="The last stage to run.", show_default=False)]


def run_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder; by default runs/NAME.", show_default=False)
    ] = None,
    set_: SetOption = None,
    until: UntilOption = None,
) -> None:
    """Train a recipe's stages: what is done is skipped, what was interrupted goes on."""
    overrides = parse_overrides(set_ or [])
    check_first(recipe, overrides)
    from fettle.pipeline.runner import run

    run(recipe, out=out, set=overrides, until=until)


def check_first(recipe: Path, overrides: dict[str, str], sweep: Path | None = None) -> None:
    """Raises UserError for a slip in the recipe: at once, where the verb has seconds of imports before it reads it."""
    from fettle.recipe import load_recipe

    load_recipe(recipe, overrides, sweep)


def parse_overrides(pairs: list[str]) -> dict[str, str]:
    """`["a.b=1"]` as `{"a.b": "1"}`. Raises UserError where there is no `=`."""
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"--set {pair}", expected="KEY=VALUE, as in --set stages.sft.lr=1e-5")
        found[key.strip()] = value
    return found
