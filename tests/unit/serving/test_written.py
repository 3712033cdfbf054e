"""Encoder-decoder models behind the gate: transformers' answers, in OpenAI's shapes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from head_folders import LINES, endpoint_of
from in_process import error
from peft import LoraConfig, get_peft_model
from starlette.testclient import TestClient
from transformers import AutoModelForSeq2SeqLM

from fettle.data.coder import Coder, end_ids
from fettle.data.record import Message, Prompt, Record
from fettle.engine.env import EngineOptions
from fettle.evaluate.generate import answers
from fettle.models.base import load_tokenizer, resolve_template
from fettle.models.generate import load_speaker
from fettle.serving.heads import writing
from fettle.serving.heads.answers import HeadAnswers
from fettle.serving.heads.served import resolve_head
from fettle.serving.heads.written import Row
from fettle.serving.question import TAKEN, Question
from small_t5 import make_bart, make_t5

COMPLETE, CHAT = "/v1/completions", "/v1/chat/completions"
PROMPTS = ("Who are you?", "The night train leaves", "late")
MANY = [f"{number} {line}" for number in range(40) for line in LINES]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("written")
    made = {
        "t5": make_t5(folder / "t5", MANY, is_tied=False, feed_forward_proj="gated-gelu"),
        "bart": loud(make_bart(folder / "bart", MANY)),
        "chatty": make_t5(folder / "chatty", MANY, is_tied=False, seed=1),
    }
    (made["chatty"] / "chat_template.jinja").write_text(resolve_template("chatml"), encoding="utf-8")
    return made


def loud(folder: Path) -> Path:
    """The model with large random weights, so that it does not end at once."""
    torch.manual_seed(0)
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def at(folders: dict[str, Path]) -> dict[str, TestClient]:
    return {name: endpoint_of(folder) for name, folder in folders.items()}


def evaluated(folder: Path, records: list[Record], count: int, adapter: Path | None = None) -> list[str]:
    """Greedy answers as `fettle eval` gets them."""
    tokenizer = load_tokenizer(folder)
    prompts = [ids for ids, _ in Coder(tokenizer, is_halved=True).code(records)]
    ends = end_ids(tokenizer)
    said = dict(answers(load_speaker(folder, adapter), tokenizer, prompts, end_ids=ends, max_new_tokens=count))
    return [said[place].text for place in range(len(records))]


def asking(text: str) -> Record:
    return Record(Path("p"), 1, prompt=Prompt((Message("user", text),), (text,)))


def greedy(client: TestClient, **more: Any) -> dict[str, Any]:
    answer = client.post(COMPLETE, json={"prompt": PROMPTS[0], "temperature": 0, "max_tokens": 12} | more)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("name", ["t5", "bart"])
def test_greedy_answers_are_those_of_fettle_eval(
    at: dict[str, TestClient], folders: dict[str, Path], name: str
) -> None:
    answer = greedy(at[name], prompt=list(PROMPTS))

    wanted = evaluated(folders[name], [asking(text) for text in PROMPTS], 12)
    assert [choice["text"].strip() for choice in answer["choices"]] == wanted
    assert all(wanted) and [choice["index"] for choice in answer["choices"]] == [0, 1, 2]


def test_usage_and_the_reason_of_the_end_are_told(at: dict[str, TestClient], folders: dict[str, Path]) -> None:
    answer = greedy(at["t5"], max_tokens=5)

    prompt = len(load_tokenizer(folders["t5"])(PROMPTS[0])["input_ids"])
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 5, "total_tokens": prompt + 5}
    assert (answer["object"], answer["choices"][0]["finish_reason"]) == ("text_completion", "length")


def test_a_conversation_is_rendered_as_in_training(at: dict[str, TestClient], folders: dict[str, Path]) -> None:
    messages = [{"role": "user", "content": PROMPTS[1]}]

    answer = at["chatty"].post(CHAT, json={"messages": messages, "temperature": 0, "max_tokens": 8}).json()

    (wanted,) = evaluated(folders["chatty"], [asking(PROMPTS[1])], 8)
    message = answer["choices"][0]["message"]
    assert (message["role"], message["content"].strip()) == ("assistant", wanted) and wanted


def test_a_model_without_a_template_has_no_chat(at: dict[str, TestClient]) -> None:
    status, message = error(at["t5"].post(CHAT, json={"messages": [{"role": "user", "content": "a"}]}))

    assert status == 400 and "a prompt, to POST /v1/completions" in message


def events(client: TestClient, path: str, body: dict[str, Any]) -> list[Any]:
    answer = client.post(path, json=body | {"stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *told, last = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert last == "[DONE]"
    return [json.loads(one) for one in told]


def test_streamed_pieces_are_the_whole_answer(at: dict[str, TestClient]) -> None:
    body = {"prompt": list(PROMPTS), "temperature": 0, "max_tokens": 12}
    found = events(at["t5"], COMPLETE, body | {"stream_options": {"include_usage": True}})

    whole = greedy(at["t5"], prompt=list(PROMPTS))
    *pieces, last = found
    assert last["choices"] == [] and last["usage"] == whole["usage"] and len(pieces) > 6
    for place, choice in enumerate(whole["choices"]):
        own = [one for piece in pieces for one in piece["choices"] if one["index"] == place]
        assert "".join(one["text"] for one in own) == choice["text"]
        assert [one["finish_reason"] for one in own][-1] == choice["finish_reason"]


def test_a_streamed_chat_begins_with_its_role_and_tells_no_usage_unasked(at: dict[str, TestClient]) -> None:
    body = {"messages": [{"role": "user", "content": PROMPTS[1]}], "temperature": 0, "max_tokens": 8}
    deltas = [choice["delta"] for event in events(at["chatty"], CHAT, body) for choice in event["choices"]]

    whole = at["chatty"].post(CHAT, json=body).json()["choices"][0]["message"]["content"]
    assert deltas[0]["role"] == "assistant" and "".join(one["content"] for one in deltas) == whole


def test_draws_are_the_same_for_the_same_seed_alone_and_beside_others(at: dict[str, TestClient]) -> None:
    drawn = {"temperature": 1.5, "top_p": 0.9, "max_tokens": 12, "n": 2}
    alone = [greedy(at["t5"], seed=seed, **drawn)["choices"] for seed in (1, 2)]

    with at["t5"] as client, ThreadPoolExecutor(4) as pool:  # entered, the client has one event loop for them all
        together = list(pool.map(lambda seed: greedy(client, seed=seed, **drawn)["choices"], (1, 2, 1, 2)))

    assert together == alone * 2
    assert len({choice["text"] for choices in alone for choice in choices}) >= 3  # two draws may be alike


def test_an_adapter_answers_as_by_peft(tmp_path: Path, folders: dict[str, Path]) -> None:
    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
    model = get_peft_model(AutoModelForSeq2SeqLM.from_pretrained(folders["t5"], dtype=torch.float32), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    model.save_pretrained(tmp_path / "support")

    at = endpoint_of(tmp_path / "support")
    said = [choice["text"].strip() for choice in greedy(at, model="support", prompt=list(PROMPTS))["choices"]]

    assert said == evaluated(folders["t5"], [asking(text) for text in PROMPTS], 12, tmp_path / "support")
    assert said != evaluated(folders["t5"], [asking(text) for text in PROMPTS], 12)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({}, "prompt: nothing to read"),
        ({"prompt": 5}, "prompt: nothing to read"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens: Input should be greater"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens: Input should be a valid integer"),
        ({"prompt": "a", "max_tokens": 5000}, "max_tokens: 5000 tokens; this model writes 2048 at most"),
        ({"prompt": "a", "temperature": -1}, "temperature: "),
        ({"prompt": "a", "top_p": 0}, "top_p: "),
        ({"prompt": "a", "stop": [5]}, "stop: "),
        ({"prompt": "a", "n": 0}, "n: "),
        ({"prompt": "a", "stream": "yes"}, "stream: "),
        ({"prompt": "a", "logprobs": 0}, "logprobs: an encoder-decoder model here does not follow it"),
        ({"prompt": "a", "presence_penalty": 0.5}, "presence_penalty: "),
        ({"prompt": "a", "response_format": {"type": "json_object"}}, "response_format: "),
        ({"prompt": "a " * 3000}, "prompt: 6001 tokens; this model reads 2048 at most"),
        ({"prompt": [[1, 2], [9999]]}, "prompt: a token that is none"),
    ],
)
def test_what_a_request_has_wrong_is_400_with_its_field(
    at: dict[str, TestClient], body: dict[str, Any], reason: str
) -> None:
    status, message = error(at["t5"].post(COMPLETE, json=body))

    assert status == 400 and reason in message


def test_fields_that_ask_for_nothing_are_taken(at: dict[str, TestClient]) -> None:
    nothing = {"presence_penalty": 0.0, "echo": False, "logit_bias": None, "best_of": 1, "top_k": -1, "user": "me"}

    assert greedy(at["t5"], **nothing)["choices"] == greedy(at["t5"])["choices"]


def written(tokens: list[str], max_tokens: int = 99, stops: tuple[str, ...] = ()) -> tuple[list[str], str | None]:
    """The pieces that a row tells of tokens, each a text of its own, and why it ended; `.` ends it."""
    said: list[str] = []
    tell: Callable[..., None] = lambda text, finish: said.append(text)  # noqa: E731
    row = Row(np.zeros(1), max_tokens, 0, 1, [0], stops, tell)
    for number in range(len(tokens)):
        row.take(number, [tokens.index(".")] if "." in tokens else [], lambda ids: "".join(tokens[one] for one in ids))
    return said, row.finish


@pytest.mark.parametrize(
    ("tokens", "more", "wanted"),
    [
        (["a", "b", "."], {}, (["a", "b", ""], "stop")),
        (["a", "b"], {"max_tokens": 2}, (["a", "b"], "length")),
        (["a", "bST", "OPc"], {"stops": ("STOP",)}, (["", "a", "b"], "stop")),  # three characters wait for a fourth
        (["a", "ST", "."], {"stops": ("STOP",)}, (["", "", "aST"], "stop")),
        (["a\ufffd", "\ufffd", "."], {}, (["a", "", "\ufffd\ufffd"], "stop")),
    ],
)
def test_text_is_told_once_it_cannot_change(tokens: list[str], more: dict[str, Any], wanted: Any) -> None:
    assert written(tokens, **more) == wanted


def test_a_row_draws_from_its_likeliest_tokens() -> None:
    row = Row(np.zeros(1), 9, 1.0, 0.6, [5, 0], (), lambda text, finish: None)
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()

    drawn = [int(row.drawn(logits).argmax()) for _ in range(400)]

    # 0.5 and 0.3 are the fewest that come to 0.6; of them the first has 5/8.
    assert set(drawn) == {0, 1} and abs(drawn.count(0) / 400 - 5 / 8) < 0.08


@pytest.mark.parametrize("stops", [["bcd", "never"], ["never", "bcd"], ["bcd"]])
def test_nothing_is_told_that_a_stop_may_yet_take_away(stops: list[str]) -> None:
    told: list[str] = []
    row = Row(np.zeros(1, np.int64), 9, 0.0, 1.0, [0], stops, lambda piece, finish: told.append(piece))
    for letter in range(4):
        row.take(letter, [], lambda ids: "".join("abcd"[one] for one in ids))
    assert ("".join(told), row.finish) == ("a", "stop")


def test_a_stop_ends_an_answer_before_it(at: dict[str, TestClient]) -> None:
    text = greedy(at["t5"])["choices"][0]["text"]
    stop = text[len(text) // 2 :][:3]

    choice = greedy(at["t5"], stop=[stop, "never"])["choices"][0]

    assert (choice["text"], choice["finish_reason"]) == (text[: text.index(stop)], "stop")


def test_who_leaves_is_written_for_no_further(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[Row] = []
    monkeypatch.setattr(writing, "Row", lambda *told: rows.append(Row(*told)) or rows[-1])
    served = resolve_head(folders["t5"], EngineOptions())
    assert served is not None
    answers = HeadAnswers(served, writing.routes_of(served, EngineOptions()))

    async def left_early() -> None:
        wanted = {"prompt": PROMPTS[0], "max_tokens": 2048, "temperature": 0, "stream": True}
        parts: Any = answers.answer(Question(COMPLETE, wanted, "first"))
        assert await anext(parts) == TAKEN and (await anext(parts)).status == 200
        await parts.aclose()
        parts = answers.answer(Question(COMPLETE, wanted | {"max_tokens": 2, "stream": False}, "second"))
        assert [part.status async for part in parts] == [None, 200]

    asyncio.run(left_early())
    _, first, second = rows  # after the one that warmed the model up
    assert first.is_left and first.num_tokens < 2048 and second.num_tokens == 2
