"""Keys in a file: made, found by their secret, limited, taken back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from in_process import client_of, error
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send
from typer.testing import CliRunner

from fettle.cli.keys import app
from fettle.data.neutral import Neutral
from fettle.errors import UserError
from fettle.serving.access import Access
from fettle.serving.answers import Answers
from fettle.serving.keys import KeyFile, sees

COMPLETE = "/v1/completions"
NAMES = ("base", "sales-a", "support")


@pytest.fixture
def keys(tmp_path: Path) -> KeyFile:
    return KeyFile(tmp_path / "keys.json")


async def seven_tokens(scope: Scope, receive: Receive, send: Send) -> None:
    model = (await Request(scope, receive).json())["model"]
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    await JSONResponse({"model": model, "usage": usage})(scope, receive, send)


def client(keys: KeyFile) -> TestClient:
    answers = Answers(seven_tokens, NAMES, {}, {name: Neutral([]) for name in NAMES}, 512)
    return client_of(answers, access=Access(keys))


def asks(at: TestClient, secret: str, model: str = "base") -> Any:
    return at.post(COMPLETE, json={"model": model, "prompt": "x"}, headers={"Authorization": f"Bearer {secret}"})


def test_a_secret_is_told_once_and_only_its_hash_is_kept(keys: KeyFile) -> None:
    secret = keys.create("ann")

    assert secret not in keys.file.read_text() and keys.file.stat().st_mode & 0o777 == 0o600
    found = keys.find(secret)
    assert found is not None and (found.name, found.scopes, found.models) == ("ann", ("infer",), ("*",))
    assert keys.find(secret + "x") is None and keys.find("") is None


def test_a_change_of_the_file_is_seen_at_the_next_question(keys: KeyFile) -> None:
    reader = KeyFile(keys.file)
    secret = keys.create("ann")
    assert reader.find(secret) is not None
    keys.revoke("ann")
    assert reader.find(secret) is None


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"name": "a b"}, "is no name for a key"),
        ({"name": "ann"}, "there is a key 'ann'"),
        ({"name": "bob", "scopes": ("infre",)}, "no scope 'infre' (did you mean 'infer'?)"),
        ({"name": "bob", "concurrent": 0}, "concurrent: 0 is not a positive number"),
        ({"name": "bob", "models": ()}, "a pattern of models at least"),
    ],
)
def test_a_key_that_makes_no_sense_is_told_and_changes_nothing(
    keys: KeyFile, told: dict[str, Any], message: str
) -> None:
    keys.create("ann")
    before = keys.file.read_text()
    with pytest.raises(UserError) as caught:
        keys.create(**told)
    assert message in str(caught.value) and keys.file.read_text() == before


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"ann": 5}', '{"ann": {"colour": 1}}', '{"ann": {"digest": "x", "scopes": 1}}']
)
def test_a_file_that_holds_no_keys_is_told_by_its_name(keys: KeyFile, text: str) -> None:
    keys.file.write_text(text)
    with pytest.raises(UserError, match="not readable as keys"):
        keys.all()


@pytest.mark.parametrize(
    ("patterns", "model", "seen"),
    [
        (None, "anything", True),
        (("*",), "support", True),
        (("support",), "support", True),
        (("support",), "support:7", True),
        (("support",), "support@candidate", True),
        (("support:7",), "support:8", False),
        (("sales-*",), "sales-a", True),
        (("sales-*",), "support", False),
    ],
)
def test_a_key_sees_names_by_patterns(patterns: tuple[str, ...] | None, model: str, seen: bool) -> None:
    assert sees(patterns, model) == seen


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic x"}])
@pytest.mark.parametrize("route", [("POST", COMPLETE), ("GET", "/v1/models")])
def test_without_its_key_nothing_is_answered(keys: KeyFile, headers: dict[str, str], route: tuple[str, str]) -> None:
    keys.create("ann")
    answer = client(keys).request(*route, headers=headers)
    assert error(answer)[0] == 401 and answer.headers["WWW-Authenticate"] == "Bearer"


def test_health_wants_no_key(keys: KeyFile) -> None:
    assert [client(keys).get(path).status_code for path in ("/health", "/ready")] == [200, 200]


def test_a_key_without_the_scope_is_told_so(keys: KeyFile) -> None:
    assert error(asks(client(keys), keys.create("bot", scopes=("publish",))))[0] == 403
    assert asks(client(keys), keys.create("root", scopes=("admin",))).status_code == 200


def test_what_a_key_may_not_see_is_not_there(keys: KeyFile) -> None:
    at, secret = client(keys), keys.create("sam", models=("sales-*",))

    assert asks(at, secret, "sales-a").status_code == 200
    hidden, unknown = error(asks(at, secret, "support")), error(asks(at, secret, "nothing"))
    assert hidden == (404, "no model 'support'; available: sales-a")
    assert unknown == (404, "no model 'nothing'; available: sales-a")
    listed = at.get("/v1/models", headers={"Authorization": f"Bearer {secret}"}).json()["data"]
    assert [card["id"] for card in listed] == ["sales-a"]


def test_requests_of_a_minute_are_counted(keys: KeyFile) -> None:
    at, secret = client(keys), keys.create("ann", requests_per_minute=2)

    answers = [asks(at, secret) for _ in range(3)]

    assert [one.status_code for one in answers] == [200, 200, 429]
    assert 1 <= int(answers[-1].headers["Retry-After"]) <= 60
    assert asks(at, keys.create("bob")).status_code == 200


def test_tokens_of_a_minute_are_counted_as_answers_tell_them(keys: KeyFile) -> None:
    at, secret = client(keys), keys.create("ann", tokens_per_minute=10)

    assert [asks(at, secret).status_code for _ in range(3)] == [200, 200, 429]  # 7 tokens each


def test_what_fails_gives_its_place_back(keys: KeyFile) -> None:
    at, secret = client(keys), keys.create("ann", concurrent=1)
    assert [asks(at, secret, model).status_code for model in ("nothing", "base", "base")] == [404, 200, 200]


def test_the_commands_make_list_and_revoke(tmp_path: Path) -> None:
    run, file = CliRunner(), str(tmp_path / "deep" / "keys.json")
    secret = run.invoke(
        app, ["create", "ann", "--keys", file, "--model", "sales-*", "--concurrent", "4"]
    ).output.strip()
    assert secret.startswith("fettle-") and KeyFile(file).find(secret) is not None
    listed = run.invoke(app, ["list", "--keys", file]).output
    assert "ann   infer   sales-*  -             -           4" in listed and secret not in listed
    assert "no key any more" in run.invoke(app, ["revoke", "ann", "--keys", file]).output
    assert json.loads(Path(file).read_text()) == {}
