"""`fettle publish | promote | rollback | adapters`: versions of adapters and models, and the names that point at
them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fettle.cli.table import lines_of
from fettle.registry.reference import CANDIDATE, PRODUCTION, check_name

_Registry = Annotated[
    Path, typer.Option(envvar="FETTLE_REGISTRY", help="The registry's folder, as `fettle serve --registry` has it.")
]
_Alias = Annotated[str, typer.Option(help="The name that is moved; `production` is what NAME alone means.")]


def publish_command(
    folder: Annotated[Path, typer.Argument(help="The folder of a LoRA adapter or a full model, an artifact's too.")],
    registry: _Registry,
    name: Annotated[str | None, typer.Option(help="What it is called; by default its artifact's name.")] = None,
    alias: _Alias = CANDIDATE,
    base: Annotated[str | None, typer.Option(help="What an adapter goes over; by default what it says itself.")] = None,
) -> None:
    """Copy an adapter or a model into the registry as the next version of its name; endpoints load an adapter within
    seconds, and start engines for a model that they serve."""
    from fettle.serving.publish import publish

    version = publish(folder, registry=registry, name=name, alias=alias, base=base)
    _tell(registry, version.name, folder)
    typer.echo(f"{version.id} is {version.name}@{alias} ({version.size / 2**20:.1f} MiB, {version.digest[:19]})")
    if alias == CANDIDATE:
        typer.echo(f"ask for it as {version.name}@candidate; then: fettle promote {version.name}@candidate")


def promote_command(
    version: Annotated[str, typer.Argument(help="NAME:NUMBER, or NAME@ALIAS; NAME alone is its candidate.")],
    registry: _Registry,
    alias: _Alias = PRODUCTION,
    percent: Annotated[
        float | None, typer.Option(help="Only this share of NAME's requests, for the time being: a canary.")
    ] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="Copies of requests, whose answers nobody sees.")] = False,
    most_errors: Annotated[float, typer.Option(help="Share of errors beyond which the canary is stopped.")] = 0.05,
    most_slowdown: Annotated[float, typer.Option(help="Times production's 95th percentile, likewise.")] = 3.0,
) -> None:
    """Point an alias at a version: endpoints that hold the old one load the new one first, then switch. With --percent
    or --shadow production stays, and the version is tried on some of its requests."""
    from fettle.registry.folder import FolderRegistry
    from fettle.registry.moves import begin_canary, meant, promote

    there, wanted = FolderRegistry(registry), meant(version)
    if percent is not None or shadow:
        share: dict[str, object] = {"percent": 100.0 if percent is None else percent, "is_shadow": shadow}
        moved = begin_canary(there, wanted, share | {"most_errors": most_errors, "most_slowdown": most_slowdown})
        name, what = moved.version.name, "copies" if shadow else "answers"
        typer.echo(f"{moved.version.id} {what} {share['percent']:g} % of the requests for {name}")
        typer.echo(f"fettle rollback {name} ends that; fettle promote {name}@{moved.alias} gives it all of them")
        return
    moved = promote(there, wanted, alias)
    _tell(registry, moved.version.name)
    was = "" if moved.before is None else f", was {moved.version.name}:{moved.before}"
    typer.echo(f"{moved.version.name}@{alias} is {moved.version.id}{was}")


def rollback_command(
    name: Annotated[str, typer.Argument(help="NAME.")], registry: _Registry, alias: _Alias = PRODUCTION
) -> None:
    """End a canary, where there is one; else point an alias at what it pointed at before."""
    from fettle.registry.folder import FolderRegistry
    from fettle.registry.moves import roll_back

    moved = roll_back(FolderRegistry(registry), name, alias)
    _tell(registry, name)
    if moved.canary is not None:
        typer.echo(f"{name}@{moved.canary.alias} is asked by its own name only; production is as it was")
        return
    typer.echo(f"{name}@{alias} is {moved.version.id} again, was {name}:{moved.before}")


def pin_command(
    name: Annotated[str, typer.Argument(help="NAME.")],
    registry: _Registry,
    off: Annotated[bool, typer.Option("--off", help="Let it go again.")] = False,
) -> None:
    """Have endpoints load NAME's versions first, and never push them out for others."""
    from fettle.registry.folder import FolderRegistry

    check_name(name, "NAME")
    FolderRegistry(registry).pin(name, not off)
    typer.echo(f"{name} {'makes room for others again' if off else 'stays loaded'}")


def adapters_command(registry: _Registry) -> None:
    """List what is published: versions, and which aliases point at them."""
    from fettle.registry.folder import FolderRegistry

    there = FolderRegistry(registry)
    rows, pinned = [], there.pinned()
    for name in there.names():
        aliases = there.aliases(name)
        for version in there.versions(name):
            named = ", ".join(sorted(alias for alias, number in aliases.items() if number == version.number))
            if named and name in pinned:
                named += " (pinned)"
            size = f"{version.size / 2**20:.1f} MiB"
            rows.append((version.id, version.kind, named, size, version.published[:16], version.digest[:19]))
    if not rows:
        typer.echo(f"nothing is published in {there.root}")
    for line in lines_of(("version", "kind", "aliases", "size", "published", "digest"), rows):
        typer.echo(line)
    for name in there.with_canary():
        if (canary := there.canary(name)) is not None:
            what = "copies of " if canary.is_shadow else ""
            ended = f", stopped: {canary.stopped}" if canary.stopped else ""
            typer.echo(f"canary: {what}{canary.percent:g} % of {name} to {name}@{canary.alias}{ended}")


def _tell(registry: Path, name: str, published: Path | None = None) -> None:
    """Has the tracker told, where there is one. published: what was, whose own run may say which that is."""
    from fettle.pipeline.mirror import link, link_of, tell_in_background, told_of_name

    try:
        if published is not None and told_of_name(registry, name) is None and (uri := link_of(published)) is not None:
            link(registry, name, uri)
        tell_in_background(registry, name)
    except OSError as error:  # of a registry that others may write to
        typer.echo(f"tracking  not told: {error}")
