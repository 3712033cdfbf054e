"""`fettle keys create | list | revoke`: who may ask an endpoint, for what, and how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.table import lines_of

app = typer.Typer(no_args_is_help=True, help="API keys of endpoints: create, list, revoke.")

_File = Annotated[Path, typer.Option("--keys", envvar="FETTLE_KEYS", help="The file, as `fettle serve --keys` has it.")]


@app.command("create")
def create_command(
    name: Annotated[str, typer.Argument(help="What logs and metrics call it.")],
    keys: _File,
    scope: Annotated[list[str] | None, typer.Option(help="infer, publish or admin; repeatable. Else infer.")] = None,
    model: Annotated[
        list[str] | None, typer.Option(help="A name, or a pattern such as 'sales-*'; repeatable. By default all.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(help="Requests of each minute.")] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(help="Tokens of each minute, read and written.")] = None,
    concurrent: Annotated[int | None, typer.Option(help="Requests at a time.")] = None,
) -> None:
    """Make a key and print it, this once: the file holds its hash alone."""
    from fettle.serving.keys import KeyFile

    secret = KeyFile(keys).create(
        name,
        scopes=tuple(scope or ("infer",)),
        models=tuple(model or ("*",)),
        requests_per_minute=requests_per_minute,
        tokens_per_minute=tokens_per_minute,
        concurrent=concurrent,
    )
    typer.echo(secret)


@app.command("list")
def list_command(keys: _File) -> None:
    """List keys by their names."""
    from fettle.serving.keys import KeyFile

    rows = []
    for key in KeyFile(keys).all():
        limits = (key.requests_per_minute, key.tokens_per_minute, key.concurrent)
        told = ["-" if limit is None else f"{limit:,}" for limit in limits]
        rows.append((key.name, ",".join(key.scopes), ",".join(key.models), *told, key.created[:16]))
    if not rows:
        typer.echo(f"no keys in {keys}")
    heads = ("name", "scopes", "models", "requests/min", "tokens/min", "at a time", "created")
    for line in lines_of(heads, rows):
        typer.echo(line)


@app.command("revoke")
def revoke_command(name: Annotated[str, typer.Argument(help="The key's name.")], keys: _File) -> None:
    """Remove a key; endpoints take it no more from the next request on."""
    from fettle.serving.keys import KeyFile

    KeyFile(keys).revoke(name)
    typer.echo(f"{name} is no key any more")
