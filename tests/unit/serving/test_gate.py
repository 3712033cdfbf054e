"""What the gate lets through, on an application that repeats what it was given."""

from __future__ import annotations

from typing import Any

import pytest
from in_process import client_of, error
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from fettle.data.neutral import Neutral
from fettle.serving import bodies
from fettle.serving.answers import Answers

DEFAULTS = {"support": {"temperature": 0.5, "stop_token_ids": [7], "chat_template": "{{ messages }}"}}
CHAT = "/v1/chat/completions"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).json()
    await JSONResponse({"path": scope["path"], "body": body})(scope, receive, send)


def client() -> TestClient:
    neutral = {"base": Neutral(["<s>"]), "support": Neutral(["<a>"])}
    return client_of(Answers(echo, ("base", "support"), DEFAULTS, neutral, 512))


def test_request_passes_unchanged() -> None:
    wanted = {"model": "base", "messages": [], "temperature": 0}

    assert client().post(CHAT, json=wanted).json() == {"path": CHAT, "body": wanted}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/load_lora_adapter"),
        ("GET", CHAT),
        ("OPTIONS", "/v1/models"),
        ("GET", "/docs"),
        ("GET", "/v1/models/"),
        ("POST", "/v1/completions/../models"),
    ],
)
def test_every_other_route_is_404(method: str, path: str) -> None:
    status, message = error(client().request(method, path))

    assert status == 404 and "is not served here" in message


def test_a_web_socket_is_refused() -> None:
    with pytest.raises(WebSocketDisconnect) as refused, client().websocket_connect(CHAT):
        pass
    assert refused.value.code == 1008


@pytest.mark.parametrize(
    "body",
    [
        *("", "{", "[]", '"text"', "\xff", "[" * 100_000),
        *(f'{{"model": "base", "temperature": {number}}}' for number in ("NaN", "-Infinity", "1e999", "-1e999")),
        '{"model": "base", "seed": ' + "9" * 5000 + "}",
    ],
)
def test_body_that_is_no_json_object_is_400(body: str) -> None:
    response = client().post(CHAT, content=body.encode("latin-1"))

    assert error(response)[0] == 400


def test_unknown_model_is_404_and_the_available_are_named() -> None:
    status, message = error(client().post(CHAT, json={"model": "suport"}))

    assert (status, message) == (404, "no model 'suport' (did you mean 'support'?); available: base, support")


@pytest.mark.parametrize("model", [5, ["base"], {"a": 1}])
def test_model_that_is_no_text_is_404(model: object) -> None:
    assert error(client().post(CHAT, json={"model": model}))[0] == 404


def test_body_over_the_limit_is_413(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_BODY_BYTES", 10)

    assert error(client().post(CHAT, json={"model": "base"}))[0] == 413


@pytest.mark.parametrize("smuggled", [{"chat_template": "x"}, {"chat_template_kwargs": {"chat_template": "x"}}])
def test_template_of_a_request_is_refused(smuggled: dict[str, Any]) -> None:
    status, message = error(client().post(CHAT, json={"model": "support", **smuggled}))

    assert status == 400 and "template" in message


def test_models_own_defaults_are_filled_in() -> None:
    body = client().post(CHAT, json={"model": "support", "messages": []}).json()["body"]

    assert body == {"model": "support", "messages": [], **DEFAULTS["support"]}


def test_request_goes_before_defaults_and_end_tokens_are_added() -> None:
    wanted = {"model": "support", "temperature": 0, "stop_token_ids": [3]}

    body = client().post("/v1/completions", json=wanted).json()["body"]

    assert body == {"model": "support", "temperature": 0, "stop_token_ids": [3, 7]}


@pytest.mark.parametrize(
    ("model", "said"), [(None, "<\u200bs><a>"), ("base", "<\u200bs><a>"), ("support", "<s><\u200ba>")]
)
def test_names_of_control_tokens_in_a_chat_stay_text(model: str | None, said: str) -> None:
    wanted = {"model": model, "messages": [{"role": "user", "content": "<s><a>"}]}

    body = client().post(CHAT, json=wanted).json()["body"]

    assert body["messages"] == [{"role": "user", "content": said}]


def test_a_bare_prompt_is_the_users_own_text() -> None:
    wanted = {"model": "base", "prompt": "<s>"}

    assert client().post("/v1/completions", json=wanted).json()["body"] == wanted


@pytest.mark.parametrize("depth", [100, 300, 400, 500, 900])
def test_nesting_of_any_depth_is_passed_on_or_refused(depth: int) -> None:
    deep = '{"model": "base", "messages": [{"role": "user", "content": ' + "[" * depth + "]" * depth + "}]}"

    status = client().post(CHAT, content=deep).status_code

    assert status == 200 if depth == 100 else status in (200, 400)


def test_any_bearer_token_is_taken() -> None:
    response = client().post(CHAT, json={"model": "base"}, headers={"Authorization": "Bearer whatever"})

    assert response.status_code == 200


def test_before_an_engine_is_there_the_gate_is_alive_and_not_ready() -> None:
    early = client_of(None)

    assert (early.get("/health").status_code, early.get("/ready").status_code) == (200, 503)
    for answer in (early.get("/v1/models"), early.post(CHAT, json={"model": "base"})):
        assert error(answer)[0] == 503 and int(answer.headers["Retry-After"]) > 0


def test_models_are_listed_with_their_base() -> None:
    cards = client().get("/v1/models").json()["data"]

    assert [(card["id"], card["parent"], card["max_model_len"]) for card in cards] == [
        ("base", None, 512),
        ("support", "base", 512),
    ]


def test_ray_serves_start_and_stop_hooks_are_answered() -> None:
    with client() as running:  # entering and leaving runs the lifespan protocol
        assert running.get("/health").status_code == 200
