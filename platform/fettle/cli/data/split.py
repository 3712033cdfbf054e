"""`fettle data split`: held-out records kept apart, equal questions on the same side."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fettle.cli.data.sources import SetOption, specs_of
from fettle.errors import UserError

if TYPE_CHECKING:
    from fettle.recipe.data import DataSpec


def split_command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, globs or folders of one format.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for train.jsonl, heldout.jsonl, test.jsonl.")],
    heldout: Annotated[str, typer.Option(metavar="SHARE|N", help="A share below 1, or a number of records.")] = "0.02",
    test: Annotated[str | None, typer.Option(metavar="SHARE|N", help="As well, for a last test.")] = None,
    stratify: Annotated[
        bool | None,
        typer.Option(help="Each label's share is the same; by default where every record has one.", show_default=False),
    ] = None,
    set_: SetOption = None,
) -> None:
    """Split records into files: the same ones whatever their order, equal questions always on the same side."""
    from fettle.data.split import split

    shares = [_share("--heldout", heldout), _share("--test", test) if test is not None else 0]
    done = split(specs_of(paths, set_), Path, out, heldout=shares[0], test=shares[1], stratify=stratify)
    width = max(len(str(file)) for file in done.files)
    for file, count in done.files.items():
        print(f"{file!s:{width}}  {count:>9,} records")
    train, *held = (shlex.quote(str(file)) for file in done.files)
    words = ["fettle data check", train, *(f"--heldout {file}" for file in held), *_reading(done.spec)]
    print(f"check them: {' '.join(words)}")


def _share(option: str, value: str) -> float:
    """A share as a number below 1, a number of records as a whole one."""
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not (0 < number < 1 or (number >= 1 and "." not in value and number.is_integer())):
        raise UserError(f"{option} {value}", expected="a share between 0 and 1, or a number of records")
    return number


def _reading(spec: DataSpec) -> list[str]:
    """The `--set` options with which the written files, whose rows are as they were, are read as the first source."""
    keys = spec.model_dump(include={"format", "columns", "roles"}, exclude_defaults=True)
    flat = {
        f"{key}.{inner}" if inner else key: text
        for key, value in keys.items()
        for inner, text in (value.items() if isinstance(value, dict) else [("", value)])
    }
    return [f"--set {shlex.quote(f'{key}={value}')}" for key, value in flat.items()]
