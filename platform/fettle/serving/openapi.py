"""The endpoint described by itself: an OpenAPI 3.1 document of the gate's routes, the same for every model."""

from __future__ import annotations

from typing import Any

from fettle.registry.reference import ALIAS
from fettle.serving import admin, tasks
from fettle.serving.limits import BODY_TIMEOUT_S, MAX_BODY_BYTES
from fettle.serving.openapi_answers import SCHEMAS
from fettle.serving.openapi_bodies import MESSAGE, Schema, bodies
from fettle.serving.question import DIGEST, VERSION

PATH = "/openapi.json"
_JSON = "application/json"
_MOST_MIB = MAX_BODY_BYTES >> 20
_ABOUT = (
    "Models of fettle in OpenAI's format. The document is the same for every endpoint: a route is answered by models "
    "that do its task, and is 404 for any other. Errors are of one shape, whatever they are of."
)
_RETRY = {"Retry-After": {"required": True, "schema": {"type": "integer"}, "description": "seconds"}}
_WANTS_KEY = {"WWW-Authenticate": {"required": True, "schema": {"type": "string"}}}
_ERRORS: dict[str, tuple[str, Schema]] = {
    "400": ("No JSON object, a field that is wrong or holds too much, or a request that the model cannot answer", {}),
    "401": ("No key, or one that is not known here", _WANTS_KEY),
    "403": ("A key without the scope", {}),
    "404": ("No such model for this key, or not one for this route", {}),
    "408": (f"The body had not come within {BODY_TIMEOUT_S:g} s", {}),
    "413": (f"A body over {_MOST_MIB} MiB", {}),
    "429": ("The key has had its requests or tokens of this minute, or as many as it may are running", _RETRY),
    "503": ("No engine is there yet or any more, or nothing can be changed now", _RETRY),
}
_KEY, _BODY = ("401", "403"), ("400", "408", "413")
_ASKED = (*_KEY, *_BODY, "404", "429", "503")
_MOVED = (*_KEY, *_BODY, "404", "503")
_NAMED: Schema = {
    VERSION.decode(): {"schema": {"type": "string"}, "description": "the published version that answered"},
    DIGEST.decode(): {"schema": {"type": "string"}, "description": "of its files"},
}
_HELLO = [{"role": "user", "content": "Hello"}]
_EXAMPLES: dict[str, dict[str, Any]] = {
    tasks.CHAT: {"messages": _HELLO, "max_tokens": 64},
    tasks.COMPLETE: {"prompt": "Hello", "max_tokens": 16},
    tasks.EMBED: {"input": ["Hello", "Good morning"]},
    tasks.CLASSIFY: {"input": ["My bill is wrong.", "Hello!"]},
    tasks.SCORE: {"prompts": ["Who are you?"], "completions": ["Your assistant."]},
    tasks.POOL: {"messages": [*_HELLO, {"role": "assistant", "content": "Hello!"}]},
    admin.PROMOTE: {"version": "support@candidate", "percent": 5},
    admin.ROLLBACK: {"name": "support"},
}
_TASKS: dict[str, tuple[str, str, bool]] = {
    tasks.CHAT: ("The next message of a conversation", "Chat", True),
    tasks.COMPLETE: ("The continuation of a text", "Completion", True),
    tasks.EMBED: ("Vectors of texts", "Embeddings", False),
    tasks.CLASSIFY: ("The likeliest label of texts, and the probability of each", "Classes", False),
    tasks.SCORE: ("Rewards of answers", "Scores", False),
    tasks.POOL: ("Rewards of rendered texts", "Pooled", False),
}
"""Of each route: what it gives, its schema, and whether it streams."""
_ALIAS: Schema = {"type": "string", "pattern": f"^{ALIAS.pattern}$", "description": "`production` left out"}
_PROMOTE: Schema = {
    "type": "object",
    "required": ["version"],
    "additionalProperties": False,
    "properties": {
        "version": {"type": "string", "description": "NAME:NUMBER, NAME@ALIAS; a bare NAME is its candidate"},
        "alias": _ALIAS,
        "percent": {"type": "number", "exclusiveMinimum": 0, "maximum": 100, "description": "begins a canary"},
        "is_shadow": {"type": "boolean"},
        "most_errors": {"type": "number", "minimum": 0, "maximum": 1},
        "most_slowdown": {"type": "number", "minimum": 1},
        "least": {"type": "number", "minimum": 1},
    },
}
_ROLLBACK: Schema = {
    "type": "object",
    "required": ["name"],
    "additionalProperties": False,
    "properties": {"name": {"type": "string"}, "alias": _ALIAS},
}


def document(*, has_keys: bool) -> dict[str, Any]:
    """OpenAPI 3.1. has_keys: whether a key is wanted at all."""
    asked: list[dict[str, list[str]]] = [{"key": []}] if has_keys else [{"key": []}, {}]
    paths: dict[str, Any] = {
        "/health": {"get": _read("isAlive", "Whether the ingress lives", _state("alive"))},
        "/ready": {"get": _read("isReady", "Whether an engine is warm", _ready())},
        PATH: {"get": _read("describe", "This document", _gives("OpenAPI 3.1", {"type": "object"}))},
        "/v1/models": {
            "get": _read("listModels", "What can be asked for", _of("Models") | _errors(*_KEY, "503"), security=asked)
        },
        admin.REGISTRY: {
            "get": _read(
                "listRegistry",
                "Published adapters and models, their versions, aliases and canaries",
                _of("Registry") | _errors(*_KEY, "400", "404", "503"),
                security=[{"key": []}],
            )
        },
        admin.PROMOTE: {"post": _move("promote", "Points an alias at a version, or begins a canary", admin.PROMOTE)},
        admin.ROLLBACK: {"post": _move("rollBack", "Ends a canary, or points an alias back", admin.ROLLBACK)},
    }
    for route, (summary, name, streams) in _TASKS.items():
        answers = _of(name, _NAMED, streams=streams) | _errors(*_ASKED)
        told = {"operationId": f"ask{name}", "summary": summary, "security": asked}
        paths[route] = {"post": told | {"requestBody": _takes(route), "responses": answers}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "fettle", "version": "1", "description": _ABOUT},
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": SCHEMAS | {"Message": MESSAGE},
            "responses": {status: _error(*told) for status, told in _ERRORS.items()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "`fettle keys create`"}},
        },
    }


def _read(name: str, summary: str, responses: Schema, **more: Any) -> Schema:
    return {"operationId": name, "summary": summary, "responses": responses, "security": []} | more


def _move(name: str, summary: str, route: str) -> Schema:
    told = {"operationId": name, "summary": summary, "security": [{"key": []}]}
    return told | {"requestBody": _takes(route), "responses": _of("Moved") | _errors(*_MOVED)}


def _takes(route: str) -> Schema:
    body = {admin.PROMOTE: _PROMOTE, admin.ROLLBACK: _ROLLBACK, **bodies()}[route]
    content = {_JSON: {"schema": body, "example": _EXAMPLES[route]}}
    return {"required": True, "description": f"{_MOST_MIB} MiB at most", "content": content}


def _of(name: str, headers: Schema | None = None, *, streams: bool = False) -> Schema:
    """A 200 of a schema that has a name."""
    told = _gives(name, {"$ref": f"#/components/schemas/{name}"})
    if streams:  # without a schema: 3.1 has none of events, and clients that guess at one differ
        told["200"]["description"] += "; with `stream` as server-sent events, where an error is an event of its shape"
        told["200"]["content"]["text/event-stream"] = {"example": 'data: {"choices": […]}\n\ndata: [DONE]\n\n'}
    if headers is not None:
        told["200"]["headers"] = headers
    return told


def _gives(description: str, schema: Schema) -> Schema:
    return {"200": {"description": description, "content": {_JSON: {"schema": schema}}}}


def _state(status: str) -> Schema:
    one = {"type": "object", "required": ["status"], "properties": {"status": {"const": status}}}
    return _gives(status, one)


def _ready() -> Schema:
    starting = _state("starting")["200"] | {"headers": _RETRY}
    return _state("ready") | {"503": starting}


def _errors(*statuses: str) -> Schema:
    return {status: {"$ref": f"#/components/responses/{status}"} for status in sorted(statuses)}


def _error(description: str, headers: Schema) -> Schema:
    error = {_JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": description, "content": error} | ({"headers": headers} if headers else {})
