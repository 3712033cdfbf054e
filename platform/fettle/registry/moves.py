"""Promotion and its taking back: what `fettle promote | rollback` and the endpoint's routes both do."""

from __future__ import annotations

from dataclasses import dataclass

from fettle.errors import UserError
from fettle.registry.canary import Canary
from fettle.registry.folder import FolderRegistry, Version
from fettle.registry.reference import CANDIDATE, PRODUCTION, Reference, check_name, reference


@dataclass(frozen=True)
class Moved:
    """alias: which points at `version` now. before: the number that it pointed at, None where that is the same. canary:
    what was begun, or ended, in its place."""

    alias: str
    version: Version
    before: int | None = None
    canary: Canary | None = None


def meant(version: str, field: str = "VERSION") -> Reference:
    """What is promoted: `support:7`, `support@beta`; a bare name is its candidate. Raises UserError for none of
    them."""
    wanted = reference(version, field)
    if wanted.alias == PRODUCTION and "@" not in version:
        return Reference(wanted.name, CANDIDATE)
    return wanted


def promote(registry: FolderRegistry, wanted: Reference, alias: str = PRODUCTION) -> Moved:
    """Points `alias` at a version; where that is production, a canary ends. Raises UserError where there is none."""
    found = registry.find(wanted)
    before = registry.point(found.name, alias, found.number)
    if alias == PRODUCTION:
        registry.set_canary(found.name, None)
    return Moved(alias, found, None if before == found.number else before)


def begin_canary(registry: FolderRegistry, wanted: Reference, canary_of: dict[str, object]) -> Moved:
    """Gives a version a share of its name's requests. canary_of: fields of Canary but the alias. Raises UserError for a
    version that no alias points at, and for bounds that make no sense."""
    found = registry.find(wanted)
    if wanted.alias is None:
        raise UserError(
            f"a canary follows an alias, and {wanted} is a fixed version",
            field="VERSION",
            expected=f"{wanted.name}@ALIAS",
            fix="publish it under an alias, or promote it to one",
        )
    canary = Canary(alias=wanted.alias, **canary_of)  # type: ignore[arg-type]
    registry.set_canary(found.name, canary)
    return Moved(wanted.alias, found, canary=canary)


def roll_back(registry: FolderRegistry, name: str, alias: str = PRODUCTION) -> Moved:
    """Ends a canary of `name`, where there is one and production is meant; else points the alias at what it pointed at
    before. Raises UserError where there is nothing to go back to."""
    check_name(name, "NAME")
    if alias == PRODUCTION and (canary := registry.canary(name)) is not None:
        registry.set_canary(name, None)
        if canary.stopped is None:
            return Moved(alias, registry.find(Reference(name)), canary=canary)
    before = registry.aliases(name).get(alias)
    return Moved(alias, registry.back(name, alias), before)
