"""`fettle eval`: how good a model's answers to held-out prompts are, or what it loses on held-out records."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from fettle.cli.data.sources import SetOption, TemplateOption, load_template, specs_of
from fettle.cli.entry import evaluate_entry_command
from fettle.errors import UserError, did_you_mean
from fettle.recipe.evaluate import GenerateSpec, LossName, LossSpec, MetricName

if TYPE_CHECKING:
    from fettle.data.record import Record
    from fettle.pipeline.evaluated import Evaluation, Measurement


def evaluate_command(
    model: Annotated[
        str, typer.Argument(metavar="MODEL_OR_ADAPTER", help="A folder, an artifact, a hub id.", show_default=False)
    ],
    data: Annotated[
        str | None,
        typer.Option(help="Questions with answers, or text for loss: a file, a glob, a folder.", show_default=False),
    ] = None,
    metrics: Annotated[
        str,
        typer.Option(
            help="With commas: of answers rouge, exact_match, accuracy, f1, regex; of the tokens loss, perplexity."
        ),
    ] = "rouge",
    pattern: Annotated[
        str | None, typer.Option(help="Of regex: the expression looked for in answers.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many records.")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of the longest answer; 128 by default.", show_default=False)
    ] = None,
    max_length: Annotated[
        int | None,
        typer.Option(min=8, help="Tokens of the longest prompt, or record; longer ones are cut and counted."),
    ] = None,
    shots: Annotated[
        str | None,
        typer.Option(help="Records that stand before each prompt as worked examples: a file.", show_default=False),
    ] = None,
    few_shot: Annotated[
        int | None, typer.Option(min=1, max=64, help="How many of them; 2 by default.", show_default=False)
    ] = None,
    entry: Annotated[
        str | None,
        typer.Option(
            help="In place of all of these, an entry of a recipe's `evaluate`, in YAML: `{kind: judge, …}`.",
            show_default=False,
        ),
    ] = None,
    chat_template: TemplateOption = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="A file for the figures and every answer, as JSON.", show_default=False)
    ] = None,
) -> None:
    """Measure a model's greedy answers to prompts against those beside them, or its loss. Prompts are rendered as in
    training."""
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
    if entry is not None:
        _check_alone({"--data": data, "--pattern": pattern, "--limit": limit, "--max-new-tokens": max_new_tokens})
        _check_alone({"--max-length": max_length, "--shots": shots, "--few-shot": few_shot, "--set": set_ or None})
        evaluate_entry_command(model, entry, load_template(chat_template), out)
        return
    if data is None:
        raise UserError("nothing to measure the model on", field="--data", fix="give --data FILE, or --entry")
    names = _names(metrics)
    answered = {"max_new_tokens": max_new_tokens, "pattern": pattern, "shots": shots, "few_shot": few_shot}
    spec = _spec(data, names, {"limit": limit, "max_length": max_length}, answered, set_)
    from dataclasses import asdict, replace
    from json import dumps

    from rich.table import Table

    from fettle.artifact import replace_text
    from fettle.data.sources import open_source
    from fettle.models.base import resolve_base
    from fettle.pipeline.console import quiet

    with quiet(Path(os.devnull)) as console:  # progress bars, and what libraries find missing
        from fettle.pipeline.answering import chosen_shots, evaluate, questions
        from fettle.pipeline.few_shot import choose
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
            worked: list[Record] = []
            if spec.shots is not None:
                candidates = choose([open_source(spec.shots, Path, field="--shots")], [one.prompt for one in asked])
                worked = chosen_shots(origin, spec, candidates, field="--max-new-tokens")
                if not worked:
                    raise UserError(
                        f"{shots} has no example that asks something else than the prompts and leaves room for one",
                        field="--shots",
                    )
            said, rows = evaluate(origin, asked, spec, name=model, shots=worked, field="--max-new-tokens")
            found = said
            told = f"{said.prompts_cut:,} prompts cut, {said.answers_unended:,} answers ended by max_new_tokens"
            if worked:
                told += f", after {len(worked)} examples, {said.prompts_with_fewer:,} with room for fewer"
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


def _check_alone(others: dict[str, Any]) -> None:
    for option, given in others.items():
        if given is not None:
            raise UserError("an entry says all by itself", field=option, fix="say it in --entry")


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
    data: str, names: tuple[str, ...], told: dict[str, Any], answered: dict[str, Any], set_: list[str] | None
) -> GenerateSpec | LossSpec:
    """The settings as a recipe has them. answered: those that only answers have. Raises UserError for one that has no
    effect."""
    (told["data"],) = specs_of([data], set_)
    given = {key: value for key, value in answered.items() if value is not None}
    if names[0] in get_args(LossName):
        for key in given:
            option = f"--{key.replace('_', '-')}"
            raise UserError(f"nothing is answered for {', '.join(names)}", field=option, fix="remove it")
        return LossSpec(kind="loss", **told)
    if ("pattern" in given) != ("regex" in names):
        raise UserError("--metrics regex and --pattern EXPRESSION go together", field="--pattern")
    if "few_shot" in given and "shots" not in given:
        raise UserError("there are no examples", field="--few-shot", fix="name a file of them with --shots")
    from pydantic import ValidationError

    try:
        return GenerateSpec.model_validate({"kind": "generate", "metrics": names, **told, **given})
    except ValidationError as error:
        told_why = str(error.errors()[0]["ctx"]["error"])
        raise UserError(told_why.removeprefix("pattern: "), field="--pattern") from None
