"""`fettle parity`: whether vLLM answers as transformers and PEFT do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.data.sources import SetOption
from fettle.cli.serve import DtypeOption
from fettle.errors import GateFailed, UserError
from fettle.recipe.publish import ParitySpec


def parity_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_ADAPTER", help="A folder, an artifact, a hub id.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Where prompts are from; eight are taken. By default eight general ones."),
    ] = None,
    max_logprob_difference: Annotated[
        float | None, typer.Option(min=0, help="Nats; by default what the weights' and the engine's types allow.")
    ] = None,
    min_agreement: Annotated[float, typer.Option(min=0, max=1, help="Share of the answers' tokens.")] = 0.95,
    dtype: DtypeOption = "auto",
    set_: SetOption = None,
    out: Annotated[Path | None, typer.Option(help="A file for the figures, as JSON.", show_default=False)] = None,
) -> None:
    """Compare what vLLM answers with what transformers and PEFT do: log-probabilities of the same tokens, greedy
    answers, template and tokenizer. Ends with exit code 3, and the likely cause, where they differ."""
    from dataclasses import asdict
    from json import dumps

    from fettle.artifact import replace_text
    from fettle.cli.data.sources import specs_of
    from fettle.data.sources import open_source
    from fettle.models.base import resolve_base
    from fettle.output import cache_folder
    from fettle.pipeline.console import plain, quiet

    logs = cache_folder("logs")
    with quiet(logs / "parity-driver.log") as console:
        from fettle.pipeline.parity import parity
        from fettle.pipeline.parity_prompts import general_prompts, prompts_of

        specs = specs_of([data], set_) if data is not None else []
        prompts = prompts_of(open_source(specs[0], Path, field="--data")) if specs else general_prompts()
        if not prompts:
            raise UserError("there is no record to take a prompt from", field="--data")
        found = parity(
            resolve_base(model, field="MODEL_OR_ADAPTER"),
            prompts,
            data or "general prompts",
            ParitySpec(max_logprob_difference=max_logprob_difference or None, min_agreement=min_agreement),
            log=logs / "parity.log",
            dtype=dtype,  # type: ignore[arg-type]  # checked by itself
            say=plain(console),
        )
        if found is None:
            raise UserError("transformers itself serves it: there is nothing to compare", field="MODEL_OR_ADAPTER")
        for line in found.lines():
            console.print(line, markup=False)
    if out is not None:
        replace_text(out, dumps(asdict(found) | {"is_met": found.is_met}, indent=2) + "\n")
        typer.echo(f"report    {out}")
    if not found.is_met:
        raise GateFailed(found.why_not)
