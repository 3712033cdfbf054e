"""`fettle generate`: a model's answers to the prompts of a data set, as JSON lines."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.data.sources import SetOption
from fettle.cli.serve import AdaptersOption, DtypeOption, LengthOption, adapters_of

_GOES_ON = "; the same command goes on from here"


def generate_command(
    model: Annotated[str, typer.Argument(help="What `fettle serve` takes: `tiny`, a folder, an artifact, a hub id.")],
    data: Annotated[str, typer.Argument(help="Prompts: a file, a glob, a folder, a hub id.")],
    out: Annotated[Path, typer.Option(help="The file to write, a JSON line for each record.", show_default=False)],
    adapter: AdaptersOption = None,
    registry: Annotated[
        Path | None,
        typer.Option(envvar="FETTLE_REGISTRY", help="A registry's folder, whose published adapters can be named."),
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option(help="Who answers: the base, an adapter, or a published `support@candidate`; by default MODEL."),
    ] = None,
    model_column: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="A column of the records with the name of who answers it.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the longest answer.")] = 128,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Draw from the likeliest tokens, up to this share.")] = 1.0,
    samples: Annotated[int, typer.Option(help="Answers to each prompt.")] = 1,
    seed: Annotated[int, typer.Option(help="Of what is drawn, for each record and sample.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    engines: Annotated[int, typer.Option(min=1, help="vLLM engines that share the work.")] = 1,
    dtype: DtypeOption = "auto",
    max_model_len: LengthOption = None,
    set_: SetOption = None,
) -> None:
    """Write down a model's answers to a data set's prompts; a run that was interrupted goes on where it stopped."""
    from fettle.cli.data.sources import specs_of
    from fettle.output import cache_folder
    from fettle.signals import interruptible

    adapters = adapters_of(adapter or [])
    (spec,) = specs_of([data], set_)
    logs = cache_folder("logs") / f"generate-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    with interruptible(_GOES_ON):
        from fettle.data.sources import open_source
        from fettle.pipeline.console import duration, quiet

        with quiet(logs / "driver.log") as console:
            from fettle.engine.sampling import Sampling
            from fettle.pipeline.generating import generate

            found = generate(
                model,
                open_source(spec, Path, field="DATA"),
                out,
                Sampling(max_new_tokens, temperature, top_p, num_samples=samples, seed=seed),
                logs=logs,
                adapters=adapters,
                registry=registry,
                model_name=model_name,
                model_column=model_column,
                limit=limit,
                engines=engines,
                dtype=dtype,  # type: ignore[arg-type]  # checked by itself
                max_model_len=max_model_len,
                say=lambda text: console.print(text, markup=False),
            )
            speed = f"{found.tokens / max(found.seconds, 0.1):,.0f} tokens/s"
            console.print(f"{found.answered:,} prompts answered in {duration(found.seconds)}, {speed};", end=" ")
            console.print(f"{found.unended:,} answers ended by --max-new-tokens")
            console.print(f"answers   {out}", markup=False)
