"""`fettle eval`: how good a model's answers to held-out prompts are."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from fettle.cli.data.sources import SetOption, TemplateOption
from fettle.errors import UserError


def evaluate_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_ADAPTER", help="A folder, an artifact, a hub id.", show_default=False)
    ],
    data: Annotated[str, typer.Option(help="Questions with answers: a file, a glob, a folder.", show_default=False)],
    metrics: Annotated[str, typer.Option(help="rouge, exact_match, or both with a comma.")] = "rouge",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Tokens of the longest answer.")] = 128,
    max_length: Annotated[
        int | None, typer.Option(min=8, help="Tokens of the longest prompt; longer ones are cut and counted.")
    ] = None,
    chat_template: TemplateOption = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="A file for the figures and every answer, as JSON.", show_default=False)
    ] = None,
) -> None:
    """Measure a model's greedy answers to prompts, rendered as in training, against the answers beside them."""
    spec = _spec(data, metrics, limit, max_new_tokens, max_length, set_)
    from dataclasses import asdict, replace
    from json import dumps

    from rich.table import Table

    from fettle.artifact import replace_text
    from fettle.cli.data.sources import load_template
    from fettle.data.sources import open_source
    from fettle.models.base import resolve_base
    from fettle.pipeline.console import quiet

    with quiet(Path(os.devnull)) as console:  # progress bars, and what libraries find missing
        from fettle.pipeline.evaluation import evaluate, questions
        from fettle.pipeline.origin import folder_origin

        asked = questions(open_source(spec.data, Path, field="--data"), spec.limit, field="--data")
        folder = resolve_base(model, field="MODEL_OR_ADAPTER")
        origin = folder_origin(folder, takes_foreign=True, field="MODEL_OR_ADAPTER")
        if (template := load_template(chat_template)) is not None:
            origin = replace(origin, chat_template=template)
        console.print(f"{len(asked):,} prompts of {data}", markup=False)
        found, answers = evaluate(origin, asked, spec, name=model, field="--max-new-tokens")
        table = Table(box=None, pad_edge=False)
        for name in ("metric", "mean", "95 % interval"):
            table.add_column(name, justify="left" if name == "metric" else "right", no_wrap=True)
        for name, score in found.scores.items():
            table.add_row(name, f"{score['mean']:.4f}", f"{score['low']:.4f} to {score['high']:.4f}")
        console.print(table)
        console.print(f"{found.records:,} records, {found.prompts_cut:,} prompts cut,", end=" ")
        console.print(f"{found.answers_unended:,} answers ended by max_new_tokens; {found.seconds:.0f} s")
    if out is not None:
        replace_text(out, dumps(asdict(found) | {"answers": answers}, indent=2, ensure_ascii=False) + "\n")
        typer.echo(f"report    {out}")


def _spec(
    data: str,
    metrics: str,
    limit: int | None,
    max_new_tokens: int,
    max_length: int | None,
    set_: list[str] | None,
) -> Any:
    """The settings as a recipe has them. Raises UserError for an unknown metric."""
    from typing import get_args

    from fettle.cli.data.sources import specs_of
    from fettle.errors import did_you_mean
    from fettle.recipe.evaluate import EvaluateSpec, MetricName

    names: Any = tuple(name.strip() for name in metrics.split(",") if name.strip())
    known = get_args(MetricName)
    for name in names:
        if name not in known:
            raise UserError(
                f"no metric '{name}'{did_you_mean(name, known)}", field="--metrics", expected=", ".join(known)
            )
    (source,) = specs_of([data], set_)
    return EvaluateSpec(
        kind="generate",
        data=source,
        metrics=names or ("rouge",),
        limit=limit,
        max_new_tokens=max_new_tokens,
        max_length=max_length,
    )
