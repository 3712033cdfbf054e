"""`fettle merge`: adapters into full weights, in a folder of their own."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fettle.errors import UserError

if TYPE_CHECKING:
    from fettle.recipe.merge import MergeStage


def merge_command(
    adapters: Annotated[
        list[Path], typer.Argument(metavar="ADAPTER...", help="Folders of adapters over one base.", show_default=False)
    ],
    out: Annotated[Path, typer.Option(help="The folder of full weights that is made.", show_default=False)],
    weight: Annotated[
        list[float] | None,
        typer.Option(help="Of several: what each one's update is multiplied by, in their order; by default 1."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Of several: linear, ties, dare_linear, dare_ties; by default linear.")
    ] = None,
    density: Annotated[
        float | None, typer.Option(help="ties, dare_*: the share of each update that is kept; by default 0.5.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="dare_*: of what is dropped; by default 0.")] = None,
) -> None:
    """Merge an adapter, or several over one base, into full weights."""
    if seed is not None and not (method or "").startswith("dare"):
        raise UserError("it has an effect with dare_linear and dare_ties only", field="--seed", fix="remove it")
    stage = stage_of(adapters, weight or [], method, density)
    from fettle.pipeline.merge import merge

    merge(stage, out, seed=seed or 0, say=typer.echo)


def stage_of(adapters: list[Path], weights: list[float], method: str | None, density: float | None) -> MergeStage:
    """The settings as a recipe's stage has them. Raises UserError for those that are unknown or do not go together."""
    from pydantic import ValidationError

    from fettle.recipe.merge import MergeStage

    if weights and len(weights) != len(adapters):
        raise UserError(f"{len(weights)} for {len(adapters)} adapters", field="--weight", fix="give one for each")
    if weights and len(adapters) == 1:
        raise UserError("it has no effect with one adapter", field="--weight", fix="remove it")
    told: dict[str, Any] = {"name": "merged", "kind": "merge", "method": method, "density": density}
    if len(adapters) == 1:
        told["from"] = str(adapters[0])
    else:
        pairs = zip(adapters, weights or [1.0] * len(adapters), strict=True)
        told["adapters"] = tuple({"from": str(folder), "weight": weight} for folder, weight in pairs)
    try:
        return MergeStage.model_validate(told)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        key = next((str(part) for part in first["loc"][:1]), "")
        field = {"adapters": "--weight"}.get(key, f"--{key}" if key else None)
        raise UserError(f"{said[0].lower()}{said[1:]}", field=field) from None
