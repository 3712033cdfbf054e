"""The endpoint's description of itself: all its routes, its limits, and who may ask."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from in_process import client_of

from fettle.serving.access import Access
from fettle.serving.gate import ROUTES
from fettle.serving.heads import reading, writing
from fettle.serving.keys import KeyFile
from fettle.serving.limits import LARGEST, MOST, REFUSED
from fettle.serving.openapi import PATH, document
from fettle.serving.openapi_bodies import bodies
from fettle.serving.tasks import CHAT, COMPLETE, EMBED, POOL

DOCUMENT = document(has_keys=True)


def fields(route: str) -> dict[str, Any]:
    return bodies()[route]["properties"]


def test_it_has_the_routes_of_the_gate_and_no_others() -> None:
    described = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == ROUTES


def test_it_is_a_document_of_openapi() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()


def test_it_is_given_to_everybody_before_an_engine_is_there(tmp_path: Path) -> None:
    told = client_of(None, access=Access(KeyFile(tmp_path / "keys.json"))).get(PATH)
    assert told.status_code == 200 and told.json() == DOCUMENT


def test_a_key_is_wanted_where_there_are_keys() -> None:
    def wanted(path: str, method: str, *, has_keys: bool) -> Any:
        return document(has_keys=has_keys)["paths"][path][method]["security"]

    assert wanted(CHAT, "post", has_keys=True) == [{"key": []}]
    assert wanted(CHAT, "post", has_keys=False) == [{"key": []}, {}]
    assert wanted("/registry", "get", has_keys=False) == [{"key": []}]
    assert wanted("/health", "get", has_keys=True) == []


def test_503_and_429_say_when_to_come_again() -> None:
    told = DOCUMENT["components"]["responses"]
    assert all(told[status]["headers"]["Retry-After"]["required"] for status in ("429", "503"))


def test_its_bounds_are_those_of_the_limits() -> None:
    assert fields(CHAT)["messages"]["maxItems"] == MOST["messages"]
    assert fields(CHAT)["top_logprobs"]["maximum"] == LARGEST["top_logprobs"]
    assert fields(COMPLETE)["logit_bias"]["maxProperties"] == MOST["logit_bias"]
    assert fields(COMPLETE)["n"]["maximum"] == LARGEST["n"]
    text, texts, tokens, lists = fields(COMPLETE)["prompt"]["anyOf"]
    assert [one.get("maxItems") for one in (text, texts, tokens, lists)] == [None, 64, None, 64]
    assert all(fields(CHAT)[name]["not"] == {} for name in REFUSED)


@pytest.mark.parametrize(("kind", "routes"), [(reading._Vectors, (EMBED, POOL)), (writing._Asked, (CHAT, COMPLETE))])
def test_what_heads_look_at_is_described(kind: Any, routes: tuple[str, ...]) -> None:
    assert set(kind.model_fields) <= {name for route in routes for name in fields(route)}


def test_it_imports_no_engine() -> None:
    code = f"from fettle.serving.openapi import document; document(has_keys=True); {_LOADED}"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(told) == []


_LOADED = "import sys, json; print(json.dumps([m for m in ('torch', 'vllm', 'transformers') if m in sys.modules]))"
