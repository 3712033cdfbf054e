"""What the gate lets through, on an application that repeats what it was given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from fettle.data.neutral import Neutral
from fettle.errors import UserError
from fettle.registry.folder import Version
from fettle.registry.reference import Reference
from fettle.serving import gate
from fettle.serving.gate import Gate
from fettle.serving.residency import NoRoom, NotPublished, Resident

DEFAULTS = {"support": {"temperature": 0.5, "stop_token_ids": [7], "chat_template": "{{ messages }}"}}
CHAT = "/v1/chat/completions"


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).json()
    await JSONResponse({"path": scope["path"], "body": body})(scope, receive, send)


def client(*, is_open: bool = True) -> TestClient:
    door = Gate(("base", "support"), DEFAULTS)
    if is_open:
        door.open(echo, 512, {"base": Neutral(["<s>"]), "support": Neutral(["<a>"])})
    return TestClient(door)


def error(response: Any) -> tuple[int, str]:
    told = response.json()["error"]
    assert set(told) == {"message", "type", "param", "code"} and told["code"] == response.status_code
    return response.status_code, told["message"]


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


@pytest.mark.parametrize("body", ["", "{", "[]", '"text"', "\xff", "[" * 100_000])
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
    monkeypatch.setattr(gate, "MAX_BODY_BYTES", 10)

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


def test_before_it_is_open_the_gate_is_alive_and_not_ready() -> None:
    closed = client(is_open=False)

    statuses = [closed.get("/health").status_code, closed.get("/ready").status_code]
    assert [*statuses, error(closed.post(CHAT, json={"model": "base"}))[0]] == [200, 503, 503]


def test_failed_engine_is_neither_alive_nor_ready() -> None:
    door = Gate(("base",), {})
    door.open(echo, 512, {})
    door.failure = "the engine died"
    failed = TestClient(door)

    told = failed.get("/ready")
    assert (failed.get("/health").status_code, told.status_code) == (503, 503)
    assert json.loads(told.text)["reason"] == "the engine died"


def test_models_are_listed_with_their_base() -> None:
    cards = client().get("/v1/models").json()["data"]

    assert [(card["id"], card["parent"], card["max_model_len"]) for card in cards] == [
        ("base", None, 512),
        ("support", "base", 512),
    ]


def test_ray_serves_start_and_stop_hooks_are_answered() -> None:
    with client() as running:  # entering and leaving runs the lifespan protocol
        assert running.get("/health").status_code == 200


class Published:
    """What the gate asks of a residency: one version, which is counted."""

    def __init__(self, error: Exception | None = None) -> None:
        self.means = {"voice": {"production": 1, "candidate": 2}}
        self.names = self.means.keys()
        self.running, self._error = 0, error

    async def acquire(self, wanted: Reference) -> Resident:
        if self._error is not None:
            raise self._error
        self.running += 1
        version = Version(wanted.name, 1, Path("/registry"), "sha256:1", 1, "2026-11-29T00:00:00+00:00")
        return Resident(version, Path("/copy"), {"temperature": 0.5}, Neutral(["<v>"]))

    def release(self, resident: Resident) -> None:
        self.running -= 1


def published_client(published: Any, app: Any = echo) -> TestClient:
    door = Gate(("base",), {})
    door.open(app, 512, {"base": Neutral([])}, published)
    return TestClient(door, raise_server_exceptions=False)


def test_a_published_version_is_named_to_the_engine_and_in_the_answers_headers() -> None:
    published = Published()

    answer = published_client(published).post(
        CHAT, json={"model": "voice", "messages": [{"role": "user", "content": "<v>"}]}
    )

    told = {"model": "voice:1", "messages": [{"role": "user", "content": "<\u200bv>"}], "temperature": 0.5}
    assert answer.json()["body"] == told
    assert (answer.headers["x-fettle-version"], answer.headers["x-fettle-digest"]) == ("voice:1", "sha256:1")
    assert published.running == 0


async def broken(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError("the engine")


@pytest.mark.parametrize(
    ("app", "body"), [(broken, {"model": "voice"}), (echo, {"model": "voice", "messages": "[" * 3})]
)
def test_a_version_is_given_back_whatever_becomes_of_the_request(app: Any, body: dict[str, Any]) -> None:
    published = Published()
    published_client(published, app).post(CHAT, json=body)
    assert published.running == 0


@pytest.mark.parametrize(
    ("raised", "status"),
    [
        (NotPublished("no model 'voice:9'"), 404),
        (NoRoom("all 4 places are taken"), 503),
        (UserError("it was not made for this base"), 400),
    ],
)
def test_a_version_that_cannot_answer_has_the_status_of_its_reason(raised: Exception, status: int) -> None:
    response = published_client(Published(raised)).post(CHAT, json={"model": "voice"})

    assert error(response) == (status, error(response)[1]) and str(raised).split(" at ")[0] in error(response)[1]
    assert ("Retry-After" in response.headers) == (status == 503)


def test_published_names_are_listed_with_their_versions() -> None:
    cards = published_client(Published()).get("/v1/models").json()["data"]

    assert [(card["id"], card.get("version")) for card in cards] == [
        ("base", None),
        ("voice@candidate", "voice:2"),
        ("voice", "voice:1"),
    ]


def test_a_name_that_is_nearly_published_is_told() -> None:
    status, message = error(published_client(Published()).post(CHAT, json={"model": "voic"}))

    assert (status, message) == (404, "no model 'voic' (did you mean 'voice'?); available: base, voice")


def test_what_can_be_no_published_name_is_404_without_asking() -> None:
    for name in ("../voice", "voice:0", "a" * 500):
        assert error(published_client(Published(RuntimeError("asked"))).post(CHAT, json={"model": name}))[0] == 404
