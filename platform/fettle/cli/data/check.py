"""`fettle data check`: what is in the data, before anything is trained on it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fettle.cli.data.sources import (
    BaseOption,
    LengthOption,
    SetOption,
    TemplateOption,
    is_recipe,
    load_base,
    load_template,
    specs_of,
    stage_base,
)
from fettle.cli.run import parse_overrides
from fettle.errors import UserError

if TYPE_CHECKING:
    from fettle.data.measure import Measure
    from fettle.data.report import DataReport


def check_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...|RECIPE", help="Files, globs, folders, or one recipe.")],
    heldout: Annotated[
        list[str] | None, typer.Option(metavar="PATH", help="Held-out data to look for in the rest; repeatable.")
    ] = None,
    base: BaseOption = None,
    chat_template: TemplateOption = None,
    max_length: LengthOption = None,
    sample: Annotated[int | None, typer.Option(min=1, metavar="N", help="Read only N records of each file.")] = None,
    set_: SetOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read every record, and with a base encode it. Mistakes exit with 2, warnings with 0."""
    from fettle.cli.data.printed import print_report

    if is_recipe(paths):
        if heldout:
            raise UserError("--heldout goes with files; a recipe names its own", fix="stages.NAME.heldout.data")
        reports = _stage_reports(paths[0], base, chat_template, max_length, sample, set_)
    else:
        reports = {"": _report(paths, heldout or [], base, chat_template, max_length, sample, set_)}
    if as_json:
        told = {name: report.to_json() for name, report in reports.items()}
        print(json.dumps({"stages": told} if is_recipe(paths) else told[""], indent=2, ensure_ascii=False))
    else:
        for name, report in reports.items():
            print_report(name, report, sample)
    for report in reports.values():
        report.raise_mistakes()


def _report(
    paths: list[str],
    heldout: list[str],
    base: str | None,
    chat_template: str | None,
    max_length: int | None,
    sample: int | None,
    set_: list[str] | None,
) -> DataReport:
    from fettle.data.check import inspect_sources

    if base is None:
        for option, value in (("--max-length", max_length), ("--chat-template", chat_template)):
            if value is not None:
                raise UserError(f"{option} is for counting tokens, and there is no --base", fix="add --base MODEL")
    specs, held = specs_of(paths, set_), specs_of(heldout, set_)
    measure = _measure(base, max_length, chat_template) if base is not None else None
    return inspect_sources(specs, Path, measure, heldout=held, sample=sample)


def _measure(base: str, max_length: int | None, chat_template: str | None) -> Measure:
    from fettle.data.measure import Measure

    told = load_base(base, max_length, load_template(chat_template))
    return Measure(told.tokenizer, told.max_length, is_halved=told.is_halved)


def _stage_reports(
    path: str,
    base: str | None,
    chat_template: str | None,
    max_length: int | None,
    sample: int | None,
    set_: list[str] | None,
) -> dict[str, DataReport]:
    from fettle.data.check import inspect_stage
    from fettle.data.measure import Measure
    from fettle.recipe import load_recipe
    from fettle.recipe.stages import TrainingStage

    recipe = load_recipe(path, parse_overrides(set_ or []))
    reports = {}
    for stage in (one for one in recipe.stages if isinstance(one, TrainingStage)):
        told = stage_base(recipe, stage, base, max_length, chat_template)
        measure = Measure(told.tokenizer, told.max_length, stage.on_long, is_halved=told.is_halved)
        reports[stage.name] = inspect_stage(recipe, stage, measure, sample=sample)
    return reports
