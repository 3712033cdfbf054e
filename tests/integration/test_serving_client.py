"""A merged adapter behind keys, asked by OpenAI's own client: one engine start."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest
import requests
import schemathesis
from schemathesis import BaseSchema
from schemathesis.config import SchemathesisConfig

from conforming import tried
from fettle.data.record import Message, Prompt, Record
from fettle.errors import UserError
from fettle.evaluate.endpoint import Endpoint, why_away
from fettle.pipeline.answered import Answered
from fettle.pipeline.judged import compared
from fettle.serving.keys import KeyFile
from fettle.serving.logs import access_file
from fettle.serving.question import MOST_BYTES
from live import COMPLETE, COUNT, Live, farthest, greedy, live

TOLERANCE = 1e-3  # nats, as in test_serving
PROMPTS = [[5, 6, 7, 8], [300, 20, 9], [40, 41, 42, 43, 44]]
QUESTION: Any = [{"role": "user", "content": "Hello, who are you?"}]


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> KeyFile:
    return KeyFile(tmp_path_factory.mktemp("keys") / "keys.json")


@pytest.fixture(scope="module")
def at(loras: dict[str, Path], keys: KeyFile) -> Iterator[Live]:
    secret = keys.create("ann")
    words = ["--name", "polite", "--keys", str(keys.file), "--tool-parser", "hermes"]
    with live(str(loras["polite-merged"]), *words) as running:
        running.headers["Authorization"] = f"Bearer {secret}"
        yield running


@pytest.fixture(scope="module")
def client(at: Live, keys: KeyFile) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{at.url}/v1", api_key=keys.create("openai"), max_retries=0)


def test_it_answers_as_the_adapter_over_its_base(at: Live, reference: Any) -> None:
    distances = [farthest(greedy(at, "polite", prompt), reference(prompt, "polite", COUNT)) for prompt in PROMPTS]

    assert max(distances) < TOLERANCE


def test_openais_client_lists_chats_and_completes(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["polite"]
    asked: Any = {"model": "polite", "messages": QUESTION, "max_tokens": 12, "temperature": 0}
    chat = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2)
    text = chat.choices[0].message.content
    assert text and len(chat.choices[0].logprobs.content[0].top_logprobs) == 2
    assert len(client.chat.completions.create(**asked | {"temperature": 1}, n=2).choices) == 2
    pieces = list(client.chat.completions.create(**asked, stream=True))
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces) == text
    told = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))[-1]
    assert told.choices == [] and told.usage.completion_tokens == chat.usage.completion_tokens
    drawn = [
        client.completions.create(model="polite", prompt="Hello", max_tokens=8, seed=5).choices[0].text
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1]
    stopped = client.completions.create(model="polite", prompt="Hello", max_tokens=20, stop=[drawn[0][2:4]], seed=5)
    assert stopped.choices[0].finish_reason == "stop" and drawn[0][2:4] not in stopped.choices[0].text


def test_an_answer_is_held_to_a_schema_and_a_tool_is_called(client: openai.OpenAI) -> None:
    city = {"type": "string", "enum": ["Rome", "Oslo"]}
    schema = {"type": "object", "properties": {"city": city}, "required": ["city"], "additionalProperties": False}
    # The penalty keeps a model this small from white space without end, which a schema allows.
    asked: Any = {"model": "polite", "messages": QUESTION, "max_tokens": 100, "frequency_penalty": 2.0}
    form: Any = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema, "strict": True}}
    said = client.chat.completions.create(**asked, response_format=form).choices[0].message.content
    assert json.loads(said or "")["city"] in ("Rome", "Oslo")
    tool: Any = {"type": "function", "function": {"name": "weather", "strict": True, "parameters": schema}}
    choice: Any = {"type": "function", "function": {"name": "weather"}}
    (call,) = client.chat.completions.create(**asked, tools=[tool], tool_choice=choice).choices[0].message.tool_calls
    assert call.function.name == "weather" and json.loads(call.function.arguments)["city"] in ("Rome", "Oslo")


def test_it_is_a_judge_of_other_models_answers(at: Live, keys: KeyFile, tmp_path: Path) -> None:
    verdicts = {"choice": ["[[A]]", "[[B]]", "[[C]]"]}  # what a model this small would never say by itself
    asked = Record(Path("p.jsonl"), 1, prompt=Prompt((Message("user", "Which train?"),)))
    sides = Answered("mine", ("The Heron.", "No."), 0, 0, 0.0), Answered("base", ("A dog.", "No."), 0, 0, 0.0)
    judge = Endpoint(f"{at.url}/v1", "polite", keys.create("judge"), {"temperature": 0, "structured_outputs": verdicts})

    first, second = compared(judge, [asked] * 2, *sides, "wit", tmp_path, lambda text: None)

    assert first in ("won", "tied", "lost", "inconsistent") and second == "tied"
    (file,) = tmp_path.glob("mine-judged-*.jsonl")
    assert {json.loads(file.read_text())[key] for key in ("as_a", "as_b")} <= set(verdicts["choice"])
    assert why_away(judge) is None and "401" in str(why_away(replace(judge, key="wrong")))
    with pytest.raises(UserError, match="refuses: 401"):
        compared(replace(judge, key="wrong"), [asked] * 2, *sides, "cheer", tmp_path, lambda text: None)


def test_mistakes_are_errors_of_openais_client(client: openai.OpenAI, at: Live, keys: KeyFile) -> None:
    asked: Any = {"prompt": "Hello", "max_tokens": 1}
    with pytest.raises(openai.NotFoundError, match="available: polite"):
        client.completions.create(model="nope", **asked)
    with pytest.raises(openai.BadRequestError, match="max_tokens"):
        client.completions.create(model="polite", prompt="Hello", max_tokens=10_000)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").completions.create(model="polite", **asked)
    hidden = client.with_options(api_key=keys.create("other", models=("sales",)))
    with pytest.raises(openai.NotFoundError, match="available: none"):
        hidden.completions.create(model="polite", **asked)
    once = client.with_options(api_key=keys.create("once", requests_per_minute=1))
    once.completions.create(model="polite", **asked)
    with pytest.raises(openai.RateLimitError) as refused:
        once.completions.create(model="polite", **asked)
    assert int(refused.value.response.headers["Retry-After"]) > 0
    keys.revoke("once")
    with pytest.raises(openai.AuthenticationError):
        once.completions.create(model="polite", **asked)


def test_requests_are_logged_without_what_was_said(at: Live, client: openai.OpenAI) -> None:
    answer = client.completions.with_raw_response.create(model="polite", prompt="A secret", max_tokens=3)
    noise = next(line for line in at.printed if "have to say goes to" in line).split()[-1]
    text = access_file(Path(noise)).read_text(encoding="utf-8")
    rows = {row["id"]: row for row in map(json.loads, text.splitlines())}
    row = rows[answer.headers["x-request-id"]]
    assert (row["key"], row["model"], row["status"], row["completion_tokens"]) == ("openai", "polite", 200, 3)
    assert "secret" not in text


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"model": "../../etc/passwd", "prompt": "x"}', 404),
        (b'{"model": "polite:0", "prompt": "x"}', 404),
        (b'{"model": {"a": 1}, "prompt": "x"}', 404),
        (b'{"model": "polite", "prompt": "' + b"\xff\xfe" + b'"}', 400),
        (b'{"model": "polite", "prompt": "\\ud800"}', 400),
        (b"[" * 100_000, 400),
        (b'{"a":' * 50_000 + b"1" + b"}" * 50_000, 400),
        (b'{"model": "polite", "prompt": "x", "n": 1000}', 400),
        (b'{"model": "polite", "prompt": "x", "n": true, "max_tokens": "many"}', 400),
        (b'{"model": "polite", "prompt": "x", "max_tokens": 1e400}', 400),
        (b'{"model": "polite", "prompt": "x", "temperature": NaN}', 400),
        (b'{"model": "polite", "prompt": "x", "stop": ["' + b"a" * 300 + b'"]}', 400),
        (b'{"model": "polite", "prompt": "x", "logit_bias": {"999999": 5}}', 400),
        (b'{"model": "polite", "prompt": [-1]}', 400),
        (b'{"model": "polite", "prompt": [123456789]}', 400),
        (b'{"model": "polite", "prompt": "x", "chat_template": "{{ 1 }}"}', 400),
        (
            b'{"model": "polite", "prompt": "x", "response_format": {"type": "json_schema", "json_schema":'
            b' {"name": "x"}}}',
            400,
        ),
        (
            b'{"model": "polite", "prompt": "x", "response_format": {"type": "json_schema", "json_schema":'
            b' {"name": "x", "schema": {"type": "nothing"}}}}',
            400,
        ),
        *(
            (b'{"model": "polite", "prompt": "x", "structured_outputs": %s}' % given, 400)
            for given in (
                b'{"regex": "(("}',
                b'{"regex": "\\\\p{L}+"}',  # found out only as it is compiled
                b'{"regex": "[^\\\\s\\\\S]"}',  # nothing is one
                b'{"grammar": "root ::= root"}',
                b'{"regex": "' + b"(a|b)" * 20_000 + b'"}',
                b'{"choice": ["' + b"a" * 1_000_000 + b'"]}',
                b'"x"',
            )
        ),
        (b'{"model": "polite", "prompt": "x", "top_k": 1' + b"0" * 30 + b"}", 400),
        (b'{"model": "polite", "prompt": "x", "user": ' + b"[" * 900 + b"]" * 900 + b"}", 400),
        (b'{"model": "polite", "prompt": "x", "prompt_embeds": "gASVBQAAAAAAAACMAWGULg=="}', 400),
        (b'{"model": "polite", "prompt": "' + b"a" * (8 << 20) + b'"}', 413),
    ],
)
def test_what_a_hostile_client_sends_is_refused_and_the_server_stays_well(at: Live, body: bytes, status: int) -> None:
    headers = at.headers | {"Content-Type": "application/json"}
    answer = requests.post(f"{at.url}/v1/completions", data=body, headers=headers, timeout=60)
    told = answer.json()["error"]
    assert (answer.status_code, told["code"]) == (status, status), answer.text[:300]
    assert at.post(COMPLETE, {"model": "polite", "prompt": "x", "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("size", [3 << 20, 7 << 20])
def test_a_request_of_megabytes_is_answered(at: Live, size: int) -> None:
    body = {"model": "polite", "prompt": "x", "max_tokens": 1, "notes": "a" * size}
    assert at.post(COMPLETE, body).status_code == 200


def test_an_answer_of_megabytes_comes_whole(at: Live) -> None:
    asked = {"model": "polite", "prompt": ["x"] * 64, "max_tokens": 100, "ignore_eos": True, "logprobs": 20}

    answer = at.post(COMPLETE, asked)

    assert len(answer.content) > MOST_BYTES
    told = answer.json()
    assert len(told["choices"]) == 64 and told["usage"]["completion_tokens"] == 64 * 100


def test_no_request_that_schemathesis_makes_of_the_document_is_answered_wrongly(at: Live) -> None:
    def load(config: SchemathesisConfig) -> BaseSchema:
        found = schemathesis.openapi.from_url(f"{at.url}/openapi.json", config=config)
        return found.include(path=["/health", "/ready", "/v1/chat/completions", "/v1/completions", "/v1/models"])

    trial = tried(load, at.headers, examples=5, model="polite")

    assert trial.wrong == [] and trial.statuses[200] > 50
    assert at.post(COMPLETE, {"model": "polite", "prompt": "x", "max_tokens": 1}).status_code == 200


def test_thousands_of_names_and_keys_that_are_none_leave_no_memory_behind(at: Live) -> None:
    def resident() -> int:
        children = psutil.Process(at.process.pid).children(recursive=True)
        return sum(one.memory_info().rss for one in children if one.name().startswith("ray::ServeReplica"))

    def asked(number: int) -> int:
        headers = {"Authorization": f"Bearer {number}"} if number % 2 else at.headers
        body = {"model": f"name-{number}", "prompt": "x"}
        return requests.post(f"{at.url}{COMPLETE}", json=body, headers=headers, timeout=60).status_code

    def all_of(numbers: range) -> set[int]:
        with ThreadPoolExecutor(8) as pool:
            return set(pool.map(asked, numbers))

    all_of(range(400))
    before = resident()
    assert all_of(range(400, 2400)) == {401, 404}
    assert resident() - before < 24 << 20


def test_sigint_ends_it_and_every_process_it_started(at: Live) -> None:
    """Though it was started with SIGINT ignored, as a script's background job is."""
    assert at.stopped_by(signal.SIGINT) == (0, [])
