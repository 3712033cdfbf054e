"""A full model in a registry, served as whatever its aliases point at. Reads files only."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fettle.engine.env import EngineOptions
from fettle.errors import UserError
from fettle.registry.folder import FolderRegistry, Version
from fettle.registry.reference import PRODUCTION, Reference, check_alias, parsed
from fettle.serving.heads.served import task_of
from fettle.serving.resolve import PLACES, without_lora
from fettle.serving.served import Served, resolved


@dataclass(frozen=True)
class Followed:
    """name: in the registry, and of requests. aliases: whose versions have engines, production first. served: what
    production was at the start, by the bare name. options: as they were asked for. places, tool_parser: see
    ServedModel. deployment: Ray Serve's options of the engines."""

    name: str
    registry: Path
    aliases: tuple[str, ...]
    served: Served
    options: EngineOptions
    places: int = PLACES
    tool_parser: str | None = None
    deployment: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that is always there."""
        return self.served.names

    def serving(self, version: Version) -> tuple[Served, EngineOptions]:
        """One of its versions under its own id, with the registry's adapters where it can take any. Raises UserError
        where it cannot be served."""
        served, fitting = _serving(version, self.registry, self.options, self.places, self.tool_parser)
        return served.called(version.id, version.digest), fitting

    def app(self, version: Version) -> str:
        """Of a version's Ray Serve application: another one for other files, or other options."""
        how = repr((version.digest, self.options, self.places, self.tool_parser, sorted(self.deployment.items())))
        return f"{self.prefix}{version.number}-{hashlib.sha256(how.encode()).hexdigest()[:8]}"

    def number(self, app: str) -> int | None:
        """Of the version that an application is of; None of one that is not this model's."""
        told = app.removeprefix(self.prefix).partition("-")[0] if app.startswith(self.prefix) else ""
        return int(told) if told.isdigit() else None

    @property
    def prefix(self) -> str:
        """Of the names of all its applications."""
        return prefix_of(self.name)


def prefix_of(name: str) -> str:
    """Of the names of all applications of a model; no name of one has a colon in it."""
    return f"fettle:{name}:"


def resolve_followed(
    model: str | Path,
    options: EngineOptions | None,
    *,
    registry: str | Path | None,
    also: Sequence[str] = (),
    deployment: Mapping[str, Any] | None = None,
    name: str | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    places: int = PLACES,
    tool_parser: str | None = None,
) -> Followed | None:
    """What `model` is where the registry has a full model of that name; None where it does not, and a folder or the
    like is meant. also: aliases whose versions are to have engines beside production's. Raises UserError where
    production is not set or cannot be served, and for what does not go together."""
    meant = parsed(str(model)) if registry is not None else None
    there = FolderRegistry(registry) if registry is not None else None
    if meant is None or there is None or there.kind(meant.name) != "model":
        if also or deployment:
            raise UserError(
                f"'{model}' is no model that is published in a registry",
                field="also" if also else "deployment",
                expected="only with one: fettle publish FOLDER --registry REGISTRY --name NAME",
            )
        return None
    if str(meant) != meant.name or str(model) != meant.name:
        raise UserError(
            f"'{model}' is one version of a published model, and all that its name means are served",
            field="model",
            expected=meant.name,
            fix="--also ALIAS serves another alias beside production",
        )
    for other, given in (("name", name), ("adapter", adapters)):
        if given:
            raise UserError(f"'{model}' is served as the registry has it", field=other, fix=f"leave {other} out")
    aliases = (PRODUCTION, *(check_alias(alias, "also") for alias in dict.fromkeys(also) if alias != PRODUCTION))
    production = there.find(Reference(meant.name))
    options = options or EngineOptions()
    served, _ = _serving(production, there.root, options, places, tool_parser)
    return Followed(meant.name, there.root, aliases, served, options, places, tool_parser, dict(deployment or {}))


def _serving(
    version: Version, registry: Path, options: EngineOptions, places: int, tool_parser: str | None
) -> tuple[Served, EngineOptions]:
    """A version under its bare name, with the registry's adapters where it can take any."""
    takes_adapters = task_of(version.folder, version.folder) is None and without_lora(version.folder) is None
    return resolved(
        version.folder,
        options,
        name=version.name,
        registry=registry if takes_adapters else None,
        places=places,
        tool_parser=tool_parser,
    )
