"""`fettle quantize`: weights rounded to 8 or 4 bits for serving, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fettle.errors import UserError


def quantize_command(
    model: Annotated[
        str, typer.Argument(help="The bundled `tiny`, the folder of a model or an adapter (merged first), or a hub id.")
    ],
    out: Annotated[Path, typer.Option(help="The folder of quantised weights that is made.", show_default=False)],
    bits: Annotated[int, typer.Option(help="Of each weight: 8 or 4.")] = 8,
    group: Annotated[
        int | None, typer.Option(help="4 bits: weights that share a scale, 32, 64 or 128; by default 128.")
    ] = None,
) -> None:
    """Quantise a model for serving: weights of 8 or 4 bits, which vLLM loads on CPU and GPU."""
    from pydantic import ValidationError

    from fettle.recipe.quantize import QuantizeStage

    told: dict[str, Any] = {"name": "quantized", "kind": "quantize", "bits": bits, "group": group}
    try:
        stage = QuantizeStage.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        field = f"--{first['loc'][0]}" if first["loc"] else "--group"
        raise UserError(f"{said[0].lower()}{said[1:]}", field=field) from None
    from fettle.pipeline.quantize import quantize

    quantize(stage, model, out, say=typer.echo)
