"""`fettle export`: an artifact as a folder that needs no fettle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.runs import InOption


def export_command(
    what: Annotated[str, typer.Argument(help="An artifact's folder, NAME@ALIAS or NAME:N.")],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    registry: Annotated[
        Path | None, typer.Option(envvar="FETTLE_REGISTRY", help="The registry's folder, for NAME@ALIAS and NAME:N.")
    ] = None,
    folder: InOption = Path("runs"),
) -> None:
    """Copy an artifact into a plain folder that transformers, PEFT and vLLM load, with a model card: digest, licence,
    and where it comes from."""
    from fettle.pipeline.export import CARD, export

    made = export(what, out, registry=registry, runs=folder)
    typer.echo(f"exported  {what} to {made}; what it is, and where it comes from: {made / CARD}")
