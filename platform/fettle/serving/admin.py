"""The registry over HTTP, for keys that may: what is there, what is promoted, and what is taken back."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from starlette.responses import JSONResponse

from fettle.errors import UserError
from fettle.registry.folder import FolderRegistry
from fettle.registry.moves import Moved, begin_canary, meant, promote, roll_back
from fettle.registry.reference import PRODUCTION, check_name
from fettle.serving.exchange import access_log
from fettle.serving.failures import NOT_FOUND, UNAVAILABLE, failure
from fettle.serving.keys import Key, sees

REGISTRY, PROMOTE, ROLLBACK = "/registry", "/registry/promote", "/registry/rollback"
ROUTES = {("GET", REGISTRY), ("POST", PROMOTE), ("POST", ROLLBACK)}
_FIELDS = {
    PROMOTE: {"version", "alias", "percent", "is_shadow", "most_errors", "most_slowdown", "least"},
    ROLLBACK: {"name", "alias"},
}
_WAIT_S = 5  # for a file system that is away
_NUMBERS = ("percent", "most_errors", "most_slowdown", "least")


async def administer(registries: Sequence[FolderRegistry], path: str, wanted: dict[str, Any], key: Key) -> JSONResponse:
    """The answer to one of ROUTES. What a key may not see is not there for it; what makes no sense is 400."""
    if not registries:
        return failure(404, "this endpoint has no registry; serve with --registry", kind=NOT_FOUND)
    try:
        if path == REGISTRY:
            return JSONResponse(await asyncio.to_thread(_listed, registries, key.models))
        _check(path, wanted)
        name = meant(wanted["version"], "version").name if path == PROMOTE else wanted["name"]
        check_name(name)
        registry = await asyncio.to_thread(_of, registries, name) if sees(key.models, name) else None
        if registry is None:
            return failure(404, f"nothing called '{name}' is published here", kind=NOT_FOUND)
        moved = await asyncio.to_thread(_promoted if path == PROMOTE else _rolled_back, registry, wanted)
        access_log.info(json.dumps({"key": key.name, "route": path, **_told(moved)}))
    except OSError as error:
        why = f"the registry cannot be changed now ({error.strerror})"
        return failure(503, why, kind=UNAVAILABLE, retry_after_s=_WAIT_S)
    except UserError as error:
        return failure(400, error.got if error.expected is None else f"{error.got}; expected: {error.expected}")
    return JSONResponse(_told(moved))


def _of(registries: Sequence[FolderRegistry], name: str) -> FolderRegistry | None:
    return next((one for one in registries if name in one.names()), None)


def _promoted(registry: FolderRegistry, wanted: dict[str, Any]) -> Moved:
    version = meant(wanted["version"], "version")
    if "percent" in wanted or wanted.get("is_shadow"):
        canary_of = {name: wanted[name] for name in (*_NUMBERS, "is_shadow") if name in wanted}
        return begin_canary(registry, version, {"percent": 100.0} | canary_of)
    return promote(registry, version, wanted.get("alias", PRODUCTION))


def _rolled_back(registry: FolderRegistry, wanted: dict[str, Any]) -> Moved:
    return roll_back(registry, wanted["name"], wanted.get("alias", PRODUCTION))


def _listed(registries: Sequence[FolderRegistry], visible: tuple[str, ...]) -> dict[str, Any]:
    data = []
    for registry in registries:
        pinned = registry.pinned()
        data += [_card(registry, name, name in pinned) for name in registry.names() if sees(visible, name)]
    return {"object": "list", "data": data}


def _card(registry: FolderRegistry, name: str, is_pinned: bool) -> dict[str, Any]:
    canary, there = registry.canary(name), registry.versions(name)
    versions = [{"id": one.id, "digest": one.digest, "size": one.size, "published": one.published} for one in there]
    return {
        "name": name,
        "kind": there[-1].kind if there else None,
        "aliases": registry.aliases(name),
        "versions": versions,
        "pinned": is_pinned,
        "canary": asdict(canary) if canary is not None else None,
    }


def _told(moved: Moved) -> dict[str, Any]:
    told: dict[str, Any] = {"alias": moved.alias, "version": moved.version.id, "digest": moved.version.digest}
    told["before"] = f"{moved.version.name}:{moved.before}" if moved.before is not None else None
    return told | {"canary": asdict(moved.canary) if moved.canary is not None else None}


def _check(path: str, wanted: dict[str, Any]) -> None:
    """Raises UserError for a field that is none, is missing, or is of another type."""
    first = "version" if path == PROMOTE else "name"
    for field in wanted:
        if field not in _FIELDS[path]:
            raise UserError(f"no field '{field[:80]}'", expected=", ".join(sorted(_FIELDS[path])))
    for field in (first, *({"alias"} & set(wanted))):
        if not isinstance(wanted.get(field), str):
            raise UserError(f"{field} is not a text", expected=f'{{"{first}": "…"}}')
    for field in _NUMBERS:
        if isinstance(wanted.get(field, 0), bool) or not isinstance(wanted.get(field, 0), (int, float)):
            raise UserError(f"{field} is not a number")
    if not isinstance(wanted.get("is_shadow", False), bool):
        raise UserError("is_shadow is not true or false")
