"""`fettle data check` and `fettle data show`: what is in the data, and what a model would learn from it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fettle.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from rich.table import Table
    from transformers import PreTrainedTokenizerBase

    from fettle.data.check import DataReport, FileReport
    from fettle.data.encode import OnLong
    from fettle.recipe import Recipe, Stage
    from fettle.recipe.data import DataSpec

app = typer.Typer(help="See and check data before training on it.", no_args_is_help=True)
LONGEST = 2048

BaseOption = Annotated[
    str | None, typer.Option("--base", help="A model whose tokenizer is used: tiny, folder, hub id.")
]
LengthOption = Annotated[int | None, typer.Option("--max-length", min=8, help="Tokens of the longest example.")]


@app.command()
def check(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...|RECIPE", help="Files, globs, folders, or one recipe.")],
    base: BaseOption = None,
    max_length: LengthOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Read every record, and with a base encode it. Mistakes exit with 2, warnings with 0."""
    is_recipe = _is_recipe(paths)
    reports = _stage_reports(paths[0], base, max_length) if is_recipe else {"": _report(paths, base, max_length)}
    if as_json:
        told = {name: report.to_json() for name, report in reports.items()}
        print(json.dumps({"stages": told} if is_recipe else told[""], indent=2, ensure_ascii=False))
    else:
        for name, report in reports.items():
            _print_report(name, report)
    for report in reports.values():
        report.raise_mistakes()


@app.command()
def show(
    path: Annotated[str, typer.Argument(metavar="PATH|RECIPE", help="A file, a glob, a folder, or a recipe.")],
    stage: Annotated[str | None, typer.Option("--stage", help="The recipe's stage; by default its first.")] = None,
    base: BaseOption = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Examples of each source.")] = 3,
    max_length: LengthOption = None,
    plain: Annotated[bool, typer.Option("--plain", help="No colour: brackets around what is learned.")] = False,
) -> None:
    """Show, token for token, what a model is given and what it learns: the same tokens that training uses."""
    from rich.console import Console

    from fettle.data import show as shown
    from fettle.data.encode import encode
    from fettle.data.sources import open_source, read_source

    told = (
        _showing_recipe(path, stage, base, max_length)
        if _is_recipe([path])
        else _showing(path, stage, base, max_length)
    )
    console = Console(soft_wrap=True, highlight=False, markup=False)
    in_colour = console.is_terminal and not plain
    console.print(
        shown.legend(in_colour), f"as {told.base.name} reads it, at most {told.base.max_length} tokens", sep="; "
    )
    for spec in told.specs:
        records = read_source(open_source(spec, told.resolve, **told.where))
        examples = encode(records, told.base.tokenizer, max_length=told.base.max_length, on_long=told.on_long)
        for example in islice(examples, n):
            console.print(f"\n── {shown.caption(example)}")
            render = shown.in_colour if in_colour else shown.in_brackets
            console.print(render(example, told.base.tokenizer))


@dataclass(frozen=True)
class _Base:
    """A model's name as the user gave it, its tokenizer, and the longest example in tokens."""

    name: str
    tokenizer: PreTrainedTokenizerBase
    max_length: int


@dataclass(frozen=True)
class _Showing:
    specs: tuple[DataSpec, ...]
    resolve: Any
    base: _Base
    on_long: OnLong
    where: dict[str, Any]


def _is_recipe(paths: list[str]) -> bool:
    return len(paths) == 1 and paths[0].endswith((".yaml", ".yml"))


def _load_base(name: str, max_length: int | None, relative_to: Path | None = None, **where: Any) -> _Base:
    from fettle.models.base import base_and_adapter, load_tokenizer, positions_of, resolve_base

    folder = resolve_base(name, relative_to, **where)
    positions = positions_of(base_and_adapter(folder)[0])
    if max_length is not None and max_length > positions:
        raise UserError(f"max_length {max_length} is above the {positions} positions of {name}", **where)
    return _Base(name, load_tokenizer(folder), max_length or min(positions, LONGEST))


def _stage_base(recipe: Recipe, stage: Stage, base: str | None, max_length: int | None) -> _Base:
    """The base whose tokenizer the stage uses: what the user says, its own, or that of the stage it goes on from."""
    wanted = max_length or stage.max_length
    if base is not None:
        return _load_base(base, wanted)
    by_name = {other.name: other for other in recipe.stages}
    origin: Stage | None = stage
    while origin is not None:
        for key, value in (("base", origin.base), ("from", origin.from_)):
            if value is not None and value not in by_name:
                field = f"stages.{origin.name}.{key}"
                return _load_base(
                    value, wanted, recipe.file.parent, file=recipe.file, line=recipe.line(field), field=field
                )
        earlier = recipe.stages[: recipe.stages.index(origin)]
        origin = by_name[origin.from_] if origin.from_ else (earlier[-1] if earlier else None)
    return _load_base(recipe.base, wanted, recipe.file.parent, file=recipe.file, line=recipe.line("base"), field="base")


def _showing(path: str, stage: str | None, base: str | None, max_length: int | None) -> _Showing:
    from fettle.recipe.data import DataSpec

    if stage is not None:
        raise UserError(f"--stage {stage} goes with a recipe, and {path} is none", expected="a .yaml file")
    return _Showing((DataSpec(path=path),), Path, _load_base(base or "tiny", max_length), "cut", {})


def _showing_recipe(path: str, name: str | None, base: str | None, max_length: int | None) -> _Showing:
    from fettle.recipe import load_recipe

    recipe = load_recipe(path)
    names = [stage.name for stage in recipe.stages]
    if name is not None and name not in names:
        raise UserError(f"no stage '{name}'{did_you_mean(name, names)}", file=path, expected=", ".join(names))
    stage = recipe.stages[names.index(name) if name else 0]
    field = f"stages.{stage.name}.data"
    where = {"file": recipe.file, "line": recipe.line(field), "field": field}
    return _Showing(stage.data, recipe.resolve, _stage_base(recipe, stage, base, max_length), stage.on_long, where)


def _report(paths: list[str], base: str | None, max_length: int | None) -> DataReport:
    from fettle.data.check import inspect_sources
    from fettle.recipe.data import DataSpec

    if base is None and max_length is not None:
        raise UserError("--max-length counts tokens, and there is no --base to count with", fix="add --base MODEL")
    measure = None
    if base is not None:
        from fettle.data.measure import Measure

        told = _load_base(base, max_length)
        measure = Measure(told.tokenizer, told.max_length)
    return inspect_sources([DataSpec(path=path) for path in paths], Path, measure)


def _stage_reports(path: str, base: str | None, max_length: int | None) -> dict[str, DataReport]:
    from fettle.data.check import inspect_stage
    from fettle.data.measure import Measure
    from fettle.recipe import load_recipe

    recipe = load_recipe(path)
    reports = {}
    for stage in recipe.stages:
        told = _stage_base(recipe, stage, base, max_length)
        reports[stage.name] = inspect_stage(recipe, stage, Measure(told.tokenizer, told.max_length, stage.on_long))
    return reports


def _print_report(name: str, report: DataReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else 160)
    if name:
        console.print(f"stage {name}")
    has_tokens = any(file.counts for file in report.files)
    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for heading in ("format", "records", "size", *(("tokens", "learned", "longest") if has_tokens else ())):
        table.add_column(heading, justify="left" if heading == "format" else "right")
    for file in report.files:
        _add_row(table, file)
    if report.files:
        console.print(table)
    for file in report.files:
        if file.ignored:
            console.print(
                f"{_shown(file.file)}: not read: {', '.join(file.ignored)} ({file.why}: {file.format})", soft_wrap=True
            )
        for warning in file.warnings:
            console.print(f"{_shown(file.file)}: warning: {warning}", style="yellow", soft_wrap=True)
    for warning in report.warnings:
        console.print(f"warning: {warning}", style="yellow", soft_wrap=True)


def _add_row(table: Table, file: FileReport) -> None:
    records = f"{file.records:,}" + (" (of a sample)" if file.is_sampled else "")
    cells = [_shown(file.file), file.format, records, _size(file.bytes)]
    if file.counts is not None:
        counts = file.counts
        cells += [f"{counts.tokens:,}", f"{counts.loss_tokens / max(1, counts.tokens):.0%}", f"{counts.longest:,}"]
    table.add_row(*cells)


def _shown(file: Path) -> str:
    """Relative to where the user is, if it lies below."""
    return str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else str(file)


def _size(num_bytes: int) -> str:
    value = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
