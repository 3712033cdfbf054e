"""The registry over HTTP: who may, what is told, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process import client_of

from fettle.registry.folder import FolderRegistry
from fettle.serving.access import Access
from fettle.serving.admin import PROMOTE, REGISTRY, ROLLBACK, administer
from fettle.serving.keys import Key, KeyFile

Publish = Callable[..., int]


@pytest.fixture
def two(registry: FolderRegistry, publish: Publish) -> FolderRegistry:
    publish("support", "a")
    publish("support", "b", "candidate")
    return registry


def asked(registry: FolderRegistry | None, path: str, models: tuple[str, ...] = ("*",), **wanted: Any) -> Any:
    key = Key("ops", "", scopes=("publish",), models=models)
    registries = [registry] if registry is not None else []
    answer = asyncio.run(administer(registries, path, wanted, key))
    return answer.status_code, json.loads(bytes(answer.body))


def test_what_is_there_is_listed(two: FolderRegistry) -> None:
    status, told = asked(two, REGISTRY)
    (one,) = told["data"]
    assert status == 200 and one["aliases"] == {"production": 1, "candidate": 2}
    assert [version["id"] for version in one["versions"]] == ["support:1", "support:2"]
    assert asked(two, REGISTRY, models=("sales-*",))[1]["data"] == []


def test_a_candidate_is_promoted_and_taken_back(two: FolderRegistry) -> None:
    status, told = asked(two, PROMOTE, version="support")
    assert (status, told["version"], told["before"]) == (200, "support:2", "support:1")
    assert two.aliases("support")["production"] == 2
    assert asked(two, ROLLBACK, name="support")[1]["version"] == "support:1"


def test_a_canary_begins_and_ends(two: FolderRegistry) -> None:
    told = asked(two, PROMOTE, version="support@candidate", percent=5, most_errors=0.1)[1]
    assert told["canary"]["percent"] == 5 and two.canary("support") is not None
    assert asked(two, ROLLBACK, name="support")[1]["canary"]["percent"] == 5
    assert two.canary("support") is None and two.aliases("support")["production"] == 1


@pytest.mark.parametrize(
    ("path", "wanted", "said"),
    [
        (PROMOTE, {}, "version is not a text"),
        (PROMOTE, {"version": 5}, "version is not a text"),
        (PROMOTE, {"version": "../x"}, "names nothing that is published"),
        (PROMOTE, {"version": "support", "colour": 1}, "no field 'colour'"),
        (PROMOTE, {"version": "support:9"}, "has no version 9"),
        (PROMOTE, {"version": "support:2", "percent": 5}, "a canary follows an alias"),
        (PROMOTE, {"version": "support@candidate", "percent": "all"}, "percent is not a number"),
        (PROMOTE, {"version": "support@candidate", "percent": 500}, "500 percent"),
        (ROLLBACK, {"name": "support"}, "there is nothing to go back to"),
        (ROLLBACK, {"name": "a/b"}, "is no name for what is published"),
    ],
)
def test_what_makes_no_sense_is_told_and_changes_nothing(
    two: FolderRegistry, path: str, wanted: dict[str, Any], said: str
) -> None:
    status, told = asked(two, path, **wanted)
    assert status == 400 and said in told["error"]["message"]
    assert two.aliases("support") == {"production": 1, "candidate": 2} and two.canary("support") is None


def test_what_a_key_may_not_see_is_not_there(two: FolderRegistry) -> None:
    for path, wanted in ((PROMOTE, {"version": "support"}), (ROLLBACK, {"name": "support"})):
        assert asked(two, path, ("sales-*",), **wanted)[0] == 404


def test_an_endpoint_without_a_registry_says_so() -> None:
    assert asked(None, REGISTRY)[0] == 404


def test_only_a_key_that_may_publish_reaches_it(two: FolderRegistry, tmp_path: Path) -> None:
    keys = KeyFile(tmp_path / "keys.json")
    at = client_of(None, access=Access(keys), registries=[two])
    secrets = {scope: keys.create(scope, scopes=(scope,)) for scope in ("infer", "publish", "admin")}
    for scope, status in (("infer", 403), ("publish", 200), ("admin", 200)):
        answer = at.post(PROMOTE, json={"version": "support"}, headers={"Authorization": f"Bearer {secrets[scope]}"})
        assert answer.status_code == status
    assert at.get(REGISTRY).status_code == 401
    assert client_of(None, registries=[two]).post(PROMOTE, json={"version": "support"}).status_code == 403
