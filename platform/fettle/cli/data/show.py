"""`fettle data show`: what a model would learn from data, token for token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fettle.cli.data.sources import (
    Base,
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
from fettle.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from fettle.data.encode import Example, OnLong
    from fettle.data.sources import OpenSource
    from fettle.recipe.data import DataSpec


def show_command(
    path: Annotated[str, typer.Argument(metavar="PATH|RECIPE", help="A file, a glob, a folder, or a recipe.")],
    stage: Annotated[str | None, typer.Option("--stage", help="The recipe's stage; by default its first.")] = None,
    base: BaseOption = None,
    chat_template: TemplateOption = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Examples of each source.")] = 3,
    max_length: LengthOption = None,
    set_: SetOption = None,
    plain: Annotated[bool, typer.Option("--plain", help="No colour: brackets around what is learned.")] = False,
) -> None:
    """Show, token for token, what a model is given and what it learns: the same tokens that training uses."""
    from rich.console import Console

    from fettle.data import show as shown
    from fettle.data.sources import open_source

    told = (
        _showing_recipe(path, stage, base, max_length, chat_template, set_)
        if is_recipe([path])
        else _showing(path, stage, base, max_length, chat_template, set_)
    )
    console = Console(soft_wrap=True, highlight=False, markup=False)
    in_colour = console.is_terminal and not plain
    render = shown.in_colour if in_colour else shown.in_brackets
    as_read = f"as {told.base.name} reads it, at most {told.base.max_length} tokens"
    console.print(shown.legend(in_colour), as_read, sep="; ")
    for spec in told.specs:
        for why, example in _examples(open_source(spec, told.resolve, **told.where), told, n):
            if why:
                console.print(f"\n{why}")
            console.print(f"\n── {shown.caption(example)}")
            console.print(render(example, told.base.tokenizer))


@dataclass(frozen=True)
class _Showing:
    specs: tuple[DataSpec, ...]
    resolve: Any
    base: Base
    on_long: OnLong
    where: dict[str, Any]


def _examples(source: OpenSource, told: _Showing, n: int) -> Iterator[tuple[str, Example]]:
    """(the file's format and why, with its first example, the example) of the first `n` records that give any.

    A part of a long text counts as one; all answers of a record count as one.
    """
    from fettle.data.encode import encode
    from fettle.data.formats import read_file
    from fettle.data.rows import complaint_of

    on_error = complaint_of(source.spec)
    last = None
    for file in source.files:
        format_, records = read_file(file, source.spec, on_error)
        why = f"{file}: {format_.name} ({format_.why})"
        records = islice(records, source.spec.limit)
        base = told.base
        how: dict[str, Any] = {"max_length": base.max_length, "on_long": told.on_long, "is_halved": base.is_halved}
        for example in encode(records, base.tokenizer, **how):
            place = (file, example.line) if example.name else None
            n -= place is None or place != last
            if n < 0:
                return
            yield why, example
            why, last = "", place


def _showing(
    path: str,
    stage: str | None,
    base: str | None,
    max_length: int | None,
    chat_template: str | None,
    set_: list[str] | None,
) -> _Showing:
    if stage is not None:
        raise UserError(f"--stage {stage} goes with a recipe, and {path} is none", expected="a .yaml file")
    told = load_base(base or "tiny", max_length, load_template(chat_template))
    return _Showing(tuple(specs_of([path], set_)), Path, told, "cut", {})


def _showing_recipe(
    path: str,
    name: str | None,
    base: str | None,
    max_length: int | None,
    chat_template: str | None,
    set_: list[str] | None,
) -> _Showing:
    from fettle.recipe import load_recipe
    from fettle.recipe.stages import TrainingStage

    recipe = load_recipe(path, parse_overrides(set_ or []))
    stages = {stage.name: stage for stage in recipe.stages if isinstance(stage, TrainingStage)}
    name = name or next(iter(stages), recipe.stages[0].name)
    if name not in stages:
        there = any(stage.name == name for stage in recipe.stages)
        got = f"stage '{name}' has no data" if there else f"no stage '{name}'{did_you_mean(name, stages)}"
        raise UserError(got, file=path, expected=", ".join(stages) or None)
    stage = stages[name]
    field = f"stages.{stage.name}.data"
    where = recipe.where(field)
    told = stage_base(recipe, stage, base, max_length, chat_template)
    return _Showing(stage.data, recipe.resolve, told, stage.on_long, where)
