"""`fettle eval`: how good a model's answers to held-out prompts are, or what it loses on held-out records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from fettle.cli.data.sources import SetOption, TemplateOption, load_template, specs_of
from fettle.errors import UserError, did_you_mean
from fettle.recipe.evaluate import GenerateSpec, LossName, LossSpec, MetricName

if TYPE_CHECKING:
    from fettle.pipeline.evaluated import Evaluation, Measurement


def evaluate_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_ADAPTER", help="A folder, an artifact, a hub id.", show_default=False)
    ],
    data: Annotated[
        str,
        typer.Option(help="Questions with answers, or text for loss: a file, a glob, a folder.", show_default=False),
    ],
    metrics: Annotated[
        str, typer.Option(help="With commas: of answers rouge, exact_match; of the records' tokens loss, perplexity.")
    ] = "rouge",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest answer; 128 by default.", show_default=False)
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=8, help="Tokens of the longest prompt, or record; longer ones are cut and counted."),
    ] = None,
    chat_template: TemplateOption = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="A file for the figures and every answer, as JSON.", show_default=False)
    ] = None,
) -> None:
    """Measure a model's greedy answers to prompts against those beside them, or its loss. Prompts are rendered as in
    training."""
    names = _names(metrics)
    spec = _spec(data, names, limit, max_new_tokens, max_length, set_)
    from dataclasses import asdict, replace
    from json import dumps

    from rich.table import Table

    from fettle.artifact import replace_text
    from fettle.data.sources import open_source
    from fettle.models.base import resolve_base
    from fettle.pipeline.console import quiet

    with quiet(Path(os.devnull)) as console:  # progress bars, and what libraries find missing
        from fettle.pipeline.evaluation import evaluate, questions
        from fettle.pipeline.origin import folder_origin
        from fettle.pipeline.perplexity import measure

        source = open_source(spec.data, Path, field="--data")
        asked = questions(source, spec.limit, field="--data") if isinstance(spec, GenerateSpec) else []
        folder = resolve_base(model, field="MODEL_OR_ADAPTER")
        origin = folder_origin(folder, takes_foreign=True, field="MODEL_OR_ADAPTER")
        if (template := load_template(chat_template)) is not None:
            origin = replace(origin, chat_template=template)
        found: Evaluation | Measurement
        if isinstance(spec, LossSpec):
            lost, rows = measure(origin, source, spec, name=model, field="--data")
            found = replace(lost, scores={name: lost.scores[name] for name in names})
            told = f"{lost.tokens:,} loss-bearing tokens, {lost.records_cut:,} records cut at {lost.max_length} tokens"
        else:
            console.print(f"{len(asked):,} prompts of {data}", markup=False)
            said, rows = evaluate(origin, asked, spec, name=model, field="--max-new-tokens")
            found = said
            told = f"{said.prompts_cut:,} prompts cut, {said.answers_unended:,} answers ended by max_new_tokens"
        table = Table(box=None, pad_edge=False)
        for name in ("metric", "mean", "95 % interval"):
            table.add_column(name, justify="left" if name == "metric" else "right", no_wrap=True)
        for name, score in found.scores.items():
            table.add_row(name, f"{score['mean']:.4f}", f"{score['low']:.4f} to {score['high']:.4f}")
        console.print(table)
        console.print(f"{found.records:,} records, {told}; {found.seconds:.0f} s")
    if out is not None:
        each = "answers" if isinstance(spec, GenerateSpec) else "losses"
        replace_text(out, dumps(asdict(found) | {each: rows}, indent=2, ensure_ascii=False) + "\n")
        typer.echo(f"report    {out}")


def _names(metrics: str) -> tuple[str, ...]:
    """The metrics by name. Raises UserError for an unknown one, and for two kinds of them at once."""
    names = tuple(dict.fromkeys(name.strip() for name in metrics.split(",") if name.strip())) or ("rouge",)
    losses, known = get_args(LossName), (*get_args(MetricName), *get_args(LossName))
    for name in names:
        if name not in known:
            raise UserError(
                f"no metric '{name}'{did_you_mean(name, known)}", field="--metrics", expected=", ".join(known)
            )
    if len({name in losses for name in names}) > 1:
        raise UserError(
            f"{', '.join(names)} at once: {' and '.join(losses)} are of the records' own tokens, the others of what the"
            " model answers",
            field="--metrics",
            fix="ask for each kind by itself",
        )
    return names


def _spec(
    data: str,
    names: tuple[str, ...],
    limit: int | None,
    max_new_tokens: int | None,
    max_length: int | None,
    set_: list[str] | None,
) -> GenerateSpec | LossSpec:
    """The settings as a recipe has them. Raises UserError for one that has no effect."""
    (source,) = specs_of([data], set_)
    told: dict[str, Any] = {"data": source, "limit": limit, "max_length": max_length}
    if names[0] in get_args(LossName):
        if max_new_tokens is not None:
            raise UserError(f"nothing is answered for {', '.join(names)}", field="--max-new-tokens", fix="remove it")
        return LossSpec(kind="loss", **told)
    if max_new_tokens is not None:
        told["max_new_tokens"] = max_new_tokens
    metrics: Any = names
    return GenerateSpec(kind="generate", metrics=metrics, **told)
