"""The document's fields of the two routes that vLLM answers, against vLLM's own."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest

from fettle.serving.limits import REFUSED
from fettle.serving.openapi_bodies import MESSAGE, bodies
from fettle.serving.tasks import CHAT, COMPLETE

# vLLM takes them, they do no harm, and the document leaves them to vLLM's. Of a new one it is to be decided whether it
# is named in openapi_bodies.py, refused in limits.py, or written down here.
LEFT_TO_VLLM = {
    *("add_special_tokens", "cache_salt", "include_reasoning", "length_penalty", "logprob_token_ids", "mm_payload"),
    *("reasoning_effort", "repetition_detection", "request_id", "return_mm_kwargs", "return_prompt_text"),
    *("return_token_offsets", "routed_experts_prompt_start", "session_id", "spaces_between_special_tokens"),
    *("stream_interval", "thinking_token_budget", "truncate_prompt_tokens", "truncation_side", "use_beam_search"),
    *("watermarking", "echo", "suffix"),
}
ROUTES = pytest.mark.parametrize(
    ("route", "request_of_vllm"), [(CHAT, ChatCompletionRequest), (COMPLETE, CompletionRequest)]
)


@ROUTES
def test_every_field_of_vllms_is_described_or_refused_or_known_to_be_harmless(route: str, request_of_vllm: Any) -> None:
    described = set(bodies()[route]["properties"])
    taken = set(request_of_vllm.model_fields)

    assert taken - described <= LEFT_TO_VLLM
    assert described - set(REFUSED) <= taken


@ROUTES
def test_what_the_document_allows_vllm_takes(route: str, request_of_vllm: Any) -> None:
    """The smallest and the largest that the document has of each field, one at a time."""
    needed = {CHAT: {"messages": [{"role": "user", "content": "x"}]}, COMPLETE: {"prompt": "x"}}[route]
    schema = bodies()[route] | {"components": {"schemas": {"Message": MESSAGE}}}
    document = Draft202012Validator(schema)
    examples: dict[str, list[Any]] = {
        "logit_bias": [{}, {"5": -100}],
        "messages": [[{"role": role, "content": "x"} for role in ("system", "user", "assistant")]],
        "n": [1, 64],
        "prompt": ["x", ["x", "y"], [5], [[5], [6, 7]]],
        "response_format": [{"type": "text"}, {"type": "json_object"}],
        "seed": [-(2**63), 2**63 - 1],
        "stop": ["x", ["x"] * 4],
        "stop_token_ids": [[], [5]],
        "stream": [True, False],
        "structured_outputs": [{"regex": "a+"}, {"choice": ["a"]}],
        "temperature": [0, 2],
        "top_k": [-1, 0, 50],
        "top_p": [0.1, 1],
        "user": ["ann"],
    }
    for name, values in examples.items():
        for value in values if name in bodies()[route]["properties"] else []:
            asked = needed | {name: value}
            assert document.is_valid(asked), asked
            request_of_vllm.model_validate(asked)


@ROUTES
@pytest.mark.parametrize("field", ["n", "seed", "max_tokens", "temperature", "stop", "logit_bias", "stream", "user"])
def test_neither_takes_another_type(route: str, request_of_vllm: Any, field: str) -> None:
    needed = {CHAT: {"messages": [{"role": "user", "content": "x"}]}, COMPLETE: {"prompt": "x"}}[route]
    asked = needed | {field: [[]]}

    assert not Draft202012Validator(bodies()[route]["properties"][field]).is_valid([[]])
    with pytest.raises(ValueError, match=field):
        request_of_vllm.model_validate(asked)
