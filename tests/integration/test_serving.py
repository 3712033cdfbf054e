"""`fettle serve` from outside: its routes, its answers against transformers and PEFT, its end.

Two engine starts: an adapter over its base, and a replica in a given Ray session.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import requests

from chats import CHATS
from fettle.cluster import ray_session
from fettle.data.encode import encode
from fettle.data.record import Message, Prompt, Record
from fettle.errors import UserError
from fettle.models.base import load_tokenizer, resolve_template
from fettle.registry.folder import FolderRegistry
from fettle.serving.app import serve
from fettle.serving.port import free_port
from fettle.serving.publish import publish
from live import COMPLETE, COUNT, START_TIMEOUT_S, Live, answered_by, farthest, greedy, live, seconds_until, tokens_of

TOLERANCE = 1e-3  # nats, at any token of a greedy answer; float32 everywhere (1e-5 measured)
GOES_LIVE_S = 20.0  # a quiet machine takes half a second until the replica looks, and the loading
PROMPTS = [[5, 6, 7, 8], [300, 20, 9], [40, 41, 42, 43, 44]]
QUESTION = [{"role": "user", "content": "Hello, who are you?"}]
CHAT = "/v1/chat/completions"


class TestAdapterOverItsBase:
    @pytest.fixture(scope="class")
    def registry(self, tmp_path_factory: pytest.TempPathFactory) -> FolderRegistry:
        return FolderRegistry(tmp_path_factory.mktemp("published"))

    @pytest.fixture(scope="class")
    def at(self, loras: dict[str, Path], registry: FolderRegistry) -> Iterator[Live]:
        publish(loras["polite"], registry=registry.root, name="voice", alias="production")
        words = ["--adapter", f"brief={loras['brief']}", "--registry", str(registry.root)]
        with live(str(loras["polite"]), *words) as running:
            yield running

    def test_it_prints_its_address_its_models_and_a_curl_line(self, at: Live) -> None:
        printed = "".join(at.printed)

        assert f"{at.url}/v1   models: tiny, polite, brief" in printed
        assert f"curl -s {at.url}{CHAT}" in printed and '"model": "polite"' in printed

    def test_it_was_alive_before_it_was_ready(self, at: Live) -> None:
        assert 503 in at.polled
        assert (at.get("/health").status_code, at.get("/ready").status_code) == (200, 200)

    def test_it_lists_base_and_adapters(self, at: Live) -> None:
        cards = at.get("/v1/models").json()["data"]

        assert [card["id"] for card in cards] == ["tiny", "polite", "brief", "voice"]
        assert cards[-1]["version"] == "voice:1"

    def test_it_chats(self, at: Live) -> None:
        answer = at.post(CHAT, {"model": "tiny", "messages": QUESTION, "max_tokens": 16, "temperature": 0}).json()

        choice = answer["choices"][0]
        assert answer["model"] == "tiny" and choice["message"]["role"] == "assistant" and choice["message"]["content"]

    @pytest.mark.parametrize("model", ["tiny", "polite"])
    def test_streamed_pieces_are_the_whole_answer(self, at: Live, model: str) -> None:
        body = {"model": model, "messages": QUESTION, "max_tokens": 16, "temperature": 0}
        whole = at.post(CHAT, body).json()["choices"][0]["message"]["content"]

        streamed = at.post(CHAT, body | {"stream": True}, stream=True)
        events = [line.removeprefix("data: ") for line in streamed.iter_lines(decode_unicode=True) if line]

        assert streamed.headers["content-type"].startswith("text/event-stream") and events[-1] == "[DONE]"
        pieces = [json.loads(event)["choices"][0]["delta"].get("content") or "" for event in events[:-1]]
        assert "".join(pieces) == whole

    def test_answers_carry_the_name_that_was_asked_for(self, at: Live) -> None:
        answer = at.post(COMPLETE, {"model": "brief", "prompt": "Hello", "max_tokens": 2}).json()

        assert answer["model"] == "brief"

    def test_end_tokens_of_the_generation_config_end_an_answer(self, at: Live) -> None:
        body = {"model": "tiny", "messages": QUESTION, "max_tokens": 400, "temperature": 0}

        assert at.post(CHAT, body).json()["choices"][0]["finish_reason"] == "stop"

    @pytest.mark.parametrize(
        ("method", "path", "body", "status"),
        [
            ("POST", CHAT, b'{"model": "nope", "messages": []}', 404),
            ("POST", "/v1/load_lora_adapter", b"{}", 404),
            ("GET", "/docs", None, 404),
            ("GET", "/metrics", None, 404),
            ("POST", CHAT, b'{"model":', 400),
            ("POST", CHAT, b'["model"]', 400),
            ("POST", CHAT, b'{"model": "tiny"}', 400),
            ("POST", COMPLETE, b'{"model": "tiny", "prompt": "x", "max_tokens": -1}', 400),
            ("POST", COMPLETE, b'{"model": "tiny", "prompt": "x", "n": 10000}', 400),
        ],
    )
    def test_what_cannot_be_answered_is_an_error_of_openais_shape(
        self, at: Live, method: str, path: str, body: bytes | None, status: int
    ) -> None:
        headers = {"Content-Type": "application/json", "Authorization": "Bearer anything"}

        answer = requests.request(method, at.url + path, data=body, headers=headers, timeout=30)

        told = answer.json()["error"]
        assert (answer.status_code, told["code"]) == (status, status) and told["message"]

    def test_unknown_model_names_those_there_are(self, at: Live) -> None:
        told = at.post(CHAT, {"model": "nope", "messages": QUESTION}).json()["error"]

        assert "available: tiny, polite, brief" in told["message"]

    @pytest.mark.parametrize(("model", "adapter"), [("tiny", None), ("polite", "polite"), ("brief", "brief")])
    def test_it_answers_as_transformers_and_peft(
        self, at: Live, reference: Any, model: str, adapter: str | None
    ) -> None:
        distances = [farthest(greedy(at, model, prompt), reference(prompt, adapter, COUNT)) for prompt in PROMPTS]

        assert max(distances) < TOLERANCE

    def test_base_and_adapters_in_one_batch_answer_as_alone(self, at: Live) -> None:
        models = ["tiny", "polite", "tiny", "brief"] * 3
        alone = {model: greedy(at, model, PROMPTS[0], 96) for model in set(models)}

        with ThreadPoolExecutor(len(models)) as pool:
            together = list(pool.map(lambda model: greedy(at, model, PROMPTS[0], 96), models))

        distances = [farthest(found, alone[model]) for found, model in zip(together, models, strict=True)]
        assert max(distances) < TOLERANCE

    @pytest.mark.parametrize("chat", CHATS)
    @pytest.mark.parametrize(("model", "template"), [("tiny", None), ("brief", "qwen")])
    def test_a_chats_tokens_are_those_of_training(
        self, at: Live, tiny: Path, model: str, template: str | None, chat: str
    ) -> None:
        turns, sent, tools = CHATS[chat]
        if tools and template is None:
            pytest.skip("the base's own template has no tools")
        asked = {"model": model, "messages": sent, "max_tokens": 1, "return_token_ids": True}
        answer = at.post(CHAT, asked | ({"tools": tools, "tool_choice": "none"} if tools else {})).json()
        assert "error" not in answer, answer

        tokenizer = load_tokenizer(tiny, template and resolve_template(template))
        learned = Record(tiny, 1, messages=(*turns, Message("assistant", "Yo.", bears_loss=True)), tools=tools)
        (given,) = encode([Record(tiny, 1, prompt=Prompt(turns), tools=tools)], tokenizer, max_length=2000)
        (example,) = encode([learned], tokenizer, max_length=2000)

        assert answer["prompt_token_ids"] == given.input_ids.tolist()
        assert answer["prompt_token_ids"] == example.input_ids[: answer["usage"]["prompt_tokens"]].tolist()

    def test_a_published_version_goes_live_beside_the_old_one_and_back(
        self, at: Live, loras: dict[str, Path], registry: FolderRegistry, reference: Any
    ) -> None:
        assert farthest(greedy(at, "voice", PROMPTS[0]), reference(PROMPTS[0], "polite", COUNT)) < TOLERANCE

        publish(loras["brief"], registry=registry.root, name="voice")
        assert seconds_until(at, "voice@candidate", "voice:2") < GOES_LIVE_S
        assert answered_by(at, "voice") == "voice:1"
        for model, adapter in (("voice@candidate", "brief"), ("voice:1", "polite"), ("voice:2", "brief")):
            assert farthest(greedy(at, model, PROMPTS[0]), reference(PROMPTS[0], adapter, COUNT)) < TOLERANCE

        registry.point("voice", "production", 2)
        assert seconds_until(at, "voice", "voice:2") < GOES_LIVE_S
        registry.back("voice")
        assert seconds_until(at, "voice", "voice:1") < GOES_LIVE_S

    def test_under_load_no_request_is_lost_and_each_is_answered_by_the_version_it_names(
        self, at: Live, registry: FolderRegistry, reference: Any
    ) -> None:
        wanted = {"voice:1": reference(PROMPTS[1], "polite", COUNT), "voice:2": reference(PROMPTS[1], "brief", COUNT)}
        found: list[tuple[int, str, float]] = []
        until = time.monotonic() + 8

        def client(number: int) -> None:
            body = {"model": "voice", "prompt": PROMPTS[1], "max_tokens": COUNT, "temperature": 0, "logprobs": 0}
            body |= {"ignore_eos": True, "return_tokens_as_token_ids": True, "stream": bool(number % 2)}
            while time.monotonic() < until:
                answer = at.post(COMPLETE, body)
                version = answer.headers.get("x-fettle-version", "")
                far = farthest(tokens_of(answer), wanted[version]) if answer.status_code == 200 else float("inf")
                found.append((answer.status_code, version, far))

        with ThreadPoolExecutor(8) as pool:
            clients = [pool.submit(client, number) for number in range(8)]
            for flip in range(6):
                registry.point("voice", "production", 1 + flip % 2)
                time.sleep(1)
            for one in clients:
                one.result()

        assert {status for status, _, _ in found} == {200} and len(found) > 16
        assert {version for _, version, _ in found} == {"voice:1", "voice:2"}
        assert max(far for _, _, far in found) < TOLERANCE

    def test_what_is_deleted_from_the_registry_harms_nobody(
        self, at: Live, loras: dict[str, Path], registry: FolderRegistry
    ) -> None:
        publish(loras["polite"], registry=registry.root, name="gone", alias="production")
        assert seconds_until(at, "gone", "gone:1") < GOES_LIVE_S

        shutil.rmtree(registry.root / "gone")
        until = time.monotonic() + GOES_LIVE_S
        while at.post(COMPLETE, {"model": "gone", "prompt": "x", "max_tokens": 1}).status_code != 404:
            assert time.monotonic() < until
            time.sleep(0.1)
        assert answered_by(at, "voice").startswith("voice:")

    @pytest.mark.parametrize("name", ["voice:9", "voice@nobody", "voic", "../voice", "voice:1@production", "voice:0"])
    def test_a_version_that_is_not_there_is_404(self, at: Live, name: str) -> None:
        assert at.post(COMPLETE, {"model": name, "prompt": "x", "max_tokens": 1}).status_code == 404

    def test_sigterm_ends_it_and_every_process_it_started(self, at: Live) -> None:
        assert at.stopped_by(signal.SIGTERM) == (0, [])


@pytest.mark.skipif("RAY_ADDRESS" in os.environ, reason="needs a Ray cluster of its own")
class TestInAGivenRaySession:
    def test_one_cpu_is_enough_a_dead_replica_is_replaced_and_the_session_lives_on(self, tiny: Path) -> None:
        port = free_port()
        with ray_session(num_cpus=1):
            with serve(tiny, port=port) as endpoint:
                first = requests.get(f"{endpoint.url}/ready", timeout=30).status_code
                with pytest.raises(UserError, match="already runs"), serve(tiny, port=free_port()):
                    pass  # and the first has to survive this
                replica_process().kill()
                meanwhile = requests.post(
                    f"{endpoint.url}{COMPLETE}", json={"prompt": "x", "max_tokens": 1}, timeout=60
                )
                again = status_once_replaced(endpoint.url)
            with pytest.raises(requests.ConnectionError):
                requests.get(f"http://127.0.0.1:{port}/ready", timeout=30)

            assert (first, again, ray.is_initialized()) == (200, 200, True)
            # Nobody waits for ever: it is asked of the successor, or told when to ask again.
            assert meanwhile.status_code == 200 or int(meanwhile.headers["Retry-After"]) > 0


def replica_process() -> psutil.Process:
    started = psutil.Process().children(recursive=True)
    return next(one for one in started if one.name().startswith("ray::ServeReplica:fettle:model"))


def status_once_replaced(url: str) -> int:
    """/ready's answer, waited for through the errors on the way."""
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        try:
            status = requests.get(f"{url}/ready", timeout=5).status_code
        except requests.RequestException:
            status = 0
        if status == 200:
            return status
        time.sleep(0.2)
    return 0
