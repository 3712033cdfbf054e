"""What an answer may be held to, and whose mistake it is where the engine cannot."""

from __future__ import annotations

import json
from typing import Any

import pytest
from in_process import client_of, error
from starlette.responses import JSONResponse, StreamingResponse
from starlette.types import Receive, Scope, Send

from fettle.data.neutral import Neutral
from fettle.serving.answers import Answers
from fettle.serving.grammars import too_hard

REGEX = {"structured_outputs": {"regex": "a+"}}
FAILED = {"error": {"message": "Internal server error", "type": "InternalServerError", "param": None, "code": 500}}


def schema(**of: Any) -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": of}}}


@pytest.mark.parametrize(
    "wanted",
    [
        {"structured_outputs": "x"},
        {"structured_outputs": [1]},
        {"structured_outputs": {"regex": "(a|b)" * 500}},
        {"structured_outputs": {"choice": ["a" * 10_000, "b" * 10_000]}},
        {"structured_outputs": {"grammar": "root ::= " + '"a" ' * 3000}},
        {"structured_outputs": {"json": json.dumps({"enum": ["a" * 20_000]})}},
        {"structured_outputs": {"json": "[" * 100 + "]" * 100}},
        {"structured_outputs": {"json": "[" * 100_000}},
        {"structured_outputs": {"structural_tag": json.dumps({"format": {"type": "regex", "pattern": "a" * 3000}})}},
        {"structured_outputs": {"json": {}, "whitespace_pattern": " " * 3000}},
        schema(properties={f"p{place}": {} for place in range(600)}),
        schema(properties={f"p{place}": {"type": "string", "pattern": "[a-z]{1,500}"} for place in range(300)}),
        schema(patternProperties={"a" * 3000: {}}),
        schema(const="a" * 20_000),
        {"tools": [{"function": {"parameters": {"properties": {"x": {"pattern": "a" * 3000}}}}}]},
    ],
)
def test_what_would_take_long_to_compile_is_refused(wanted: dict[str, Any]) -> None:
    found = too_hard(wanted)
    assert found is not None and found[0] in wanted


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"structured_outputs": None, "response_format": None, "tools": None},
        {"structured_outputs": {"json": "{", "choice": None}},  # vLLM tells
        {"structured_outputs": {"choice": ["yes", "no"] * 500}},
        {"response_format": {"type": "json_object"}},
        {"response_format": 5},
        schema(description="a" * 50_000, properties={"pattern": {"type": "string", "description": "b" * 50_000}}),
        schema(properties={f"property-{place}": {"type": "string"} for place in range(400)}),
    ],
)
def test_what_is_usual_passes_to_the_compiler(wanted: dict[str, Any]) -> None:
    assert too_hard(wanted) is None


def asked(failing: Any, wanted: dict[str, Any], *, is_dead: bool = False) -> Any:
    """The gate's answer where vLLM's application answers with `failing`."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await failing(scope, receive, send)

    dies = iter([False, *[is_dead] * 9]).__next__  # not before it was asked
    answers = Answers(app, ("base",), {}, {"base": Neutral([])}, 512, is_dead=dies)
    return client_of(answers).post("/v1/completions", json={"model": "base", "prompt": "x"} | wanted)


def test_what_the_engine_cannot_follow_is_the_requests_mistake() -> None:
    assert error(asked(JSONResponse(FAILED, 500), REGEX))[0] == 400
    assert error(asked(JSONResponse(FAILED, 500), {}))[0] == 500
    assert asked(JSONResponse(FAILED, 503), REGEX).status_code == 503


def test_it_is_so_within_a_stream() -> None:
    async def events() -> Any:
        yield f"data: {json.dumps(FAILED)}\n\n"
        yield "data: [DONE]\n\n"

    def stream() -> StreamingResponse:
        return StreamingResponse(events(), media_type="text/event-stream")

    assert '"code":400' in asked(stream(), REGEX | {"stream": True}).text
    assert '"code": 500' in asked(stream(), {"stream": True}).text
    assert '"code": 500' in asked(stream(), REGEX | {"stream": True}, is_dead=True).text
