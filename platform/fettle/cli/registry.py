"""`fettle publish | promote | rollback | adapters`: versions of adapters, and the names that point at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.registry.reference import CANDIDATE, PRODUCTION, Reference, check_name, reference

_Registry = Annotated[
    Path, typer.Option(envvar="FETTLE_REGISTRY", help="The registry's folder, as `fettle serve --registry` has it.")
]
_Alias = Annotated[str, typer.Option(help="The name that is moved; `production` is what NAME alone means.")]


def publish_command(
    adapter: Annotated[Path, typer.Argument(help="The folder of a LoRA adapter, an artifact's too.")],
    registry: _Registry,
    name: Annotated[str | None, typer.Option(help="What it is called; by default its artifact's name.")] = None,
    alias: _Alias = CANDIDATE,
    base: Annotated[str | None, typer.Option(help="What it goes over; by default what it says itself.")] = None,
) -> None:
    """Copy an adapter into the registry as the next version of its name; endpoints load it within seconds."""
    from fettle.serving.publish import publish

    version = publish(adapter, registry=registry, name=name, alias=alias, base=base)
    typer.echo(f"{version.id} is {version.name}@{alias} ({version.size / 2**20:.1f} MiB, {version.digest[:19]})")
    if alias == CANDIDATE:
        typer.echo(f"ask for it as {version.name}@candidate; then: fettle promote {version.name}@candidate")


def promote_command(
    version: Annotated[str, typer.Argument(help="NAME:NUMBER, or NAME@ALIAS; NAME alone is its candidate.")],
    registry: _Registry,
    alias: _Alias = PRODUCTION,
) -> None:
    """Point an alias at a version: endpoints that hold the old one load the new one first, then switch."""
    from fettle.registry.folder import FolderRegistry

    wanted = reference(version, "VERSION")
    if "@" not in version and wanted.number is None:
        wanted = Reference(wanted.name, CANDIDATE)
    there = FolderRegistry(registry)
    found = there.find(wanted)
    before = there.point(found.name, alias, found.number)
    was = "" if before in (None, found.number) else f", was {found.name}:{before}"
    typer.echo(f"{found.name}@{alias} is {found.id}{was}")


def rollback_command(
    name: Annotated[str, typer.Argument(help="NAME.")], registry: _Registry, alias: _Alias = PRODUCTION
) -> None:
    """Point an alias at what it pointed at before."""
    from fettle.registry.folder import FolderRegistry

    there = FolderRegistry(registry)
    check_name(name, "NAME")
    before = there.aliases(name).get(alias)
    found = there.back(name, alias)
    typer.echo(f"{name}@{alias} is {found.id} again, was {name}:{before}")


def adapters_command(registry: _Registry) -> None:
    """List what is published: versions, and which aliases point at them."""
    from fettle.registry.folder import FolderRegistry

    there = FolderRegistry(registry)
    rows = [("version", "aliases", "size", "published", "digest")]
    for name in there.names():
        aliases = there.aliases(name)
        for version in there.versions(name):
            named = ", ".join(sorted(alias for alias, number in aliases.items() if number == version.number))
            size = f"{version.size / 2**20:.1f} MiB"
            rows.append((version.id, named, size, version.published[:16], version.digest[:19]))
    if len(rows) == 1:
        typer.echo(f"nothing is published in {there.root}")
        return
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
