"""What is refused before anything is tokenised, and how many tokens an answer is said to have had."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fettle.serving.grammars import measured
from fettle.serving.limits import REFUSED, too_much
from fettle.serving.usage import Usage, with_usage


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        ({"messages": [{}] * 2049}, "messages"),
        ({"prompt": ["a"] * 65}, "prompt"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": "a" * 257}, "stop"),
        ({"n": 65}, "n"),
        ({"n": "10000"}, "n"),
        ({"n": 10000.0}, "n"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"response_format": nested(33)}, "response_format"),
        ({"tools": [nested(40)]}, "tools"),
        ({"structured_outputs": {"choice": ["a"] * 5000}}, "structured_outputs"),
        ({"top_k": 2**63}, "top_k"),
        ({"a": nested(128)}, None),
        ({f"field-{place}": 1 for place in range(300)}, None),
        ({"seed": -(2**63) - 1}, "seed"),
        ({"chat_template_kwargs": {"chat_template": "x"}}, "chat_template"),
        *(({field: value}, field) for field in REFUSED for value in ("x", 0, [], {})),
    ],
)
def test_too_much_is_told_by_its_field(wanted: dict[str, Any], field: str | None) -> None:
    found = too_much(wanted)
    assert found is not None and found[0] == field


@pytest.mark.parametrize(
    "wanted",
    [
        {"messages": [{}] * 2048, "stop": None, "n": 1},
        {"prompt": list(range(5000))},  # tokens of one prompt
        {"prompt": "a" * 100_000},
        {"messages": 5, "stop": 7},  # vLLM tells
        {"response_format": {"json_schema": nested(20)}},
        {"seed": 2**63 - 1, "chat_template_kwargs": {"enable_thinking": False}},
        dict.fromkeys(REFUSED),
        {"a": nested(127)},
        {"messages": [{"role": "user", "content": ["a", {"type": "text", "text": "b"}, {"text": "c"}]}]},
        {"messages": [5, {"content": 5}, {"content": None}]},
    ],
)
def test_what_is_usual_passes(wanted: dict[str, Any]) -> None:
    assert too_much(wanted) is None


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "http://169.254.169.254/"}},
        {"image_url": {"url": "file:///etc/passwd"}},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
        {"type": "prompt_embeds", "prompt_embeds": "AAAA"},
        {"type": ["text"], "text": "x"},
    ],
)
def test_what_is_no_text_is_refused_before_anybody_fetches_it(part: dict[str, Any]) -> None:
    found = too_much({"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}]})
    assert found is not None and found[0] == "messages"


@pytest.mark.parametrize(("value", "found"), [(1, (0, 1)), ([], (0, 1)), ([1, [2]], (2, 4)), ({"a": {"b": 1}}, (2, 3))])
def test_depth_and_parts_of_a_value(value: Any, found: tuple[int, int]) -> None:
    assert measured(value) == found


def test_a_value_of_any_depth_is_measured() -> None:
    assert measured(nested(50_000))[0] == 50_000


USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def event(**told: Any) -> bytes:
    return b"data: " + json.dumps(told).encode() + b"\n\n"


def test_tokens_of_a_whole_answer_are_as_it_tells() -> None:
    usage, body = Usage(True), json.dumps({"choices": [], "usage": USAGE}).encode()
    assert usage.read(body, False) == body
    assert (usage.prompt, usage.completion) == (3, 2)


@pytest.mark.parametrize("is_wanted", [False, True])
def test_a_streams_usage_is_left_out_where_it_was_not_asked_for(is_wanted: bool) -> None:
    said = event(choices=[{"text": "a"}], usage=None)
    told, done = event(choices=[], usage=USAGE), b"data: [DONE]\n\n"
    usage = Usage(is_wanted)

    given = usage.read(said, True) + usage.read(said + told + done, True)

    assert given == (said + said + told + done if is_wanted else said + said + done)
    assert (usage.prompt, usage.completion) == (3, 2)


@pytest.mark.parametrize(
    ("wanted", "asked", "is_wanted"),
    [
        ({}, None, True),
        ({"stream": True}, {"include_usage": True}, False),
        ({"stream": True, "stream_options": {"include_usage": True}}, {"include_usage": True}, True),
        ({"stream": True, "stream_options": {"include_usage": False}}, {"include_usage": True}, False),
    ],
)
def test_a_stream_is_always_asked_for_its_usage(wanted: dict[str, Any], asked: Any, is_wanted: bool) -> None:
    found, told = with_usage(wanted)
    assert (found.get("stream_options"), told.is_wanted) == (asked, is_wanted)
