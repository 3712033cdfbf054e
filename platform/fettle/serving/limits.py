"""What a request may hold at most, looked at before anything is tokenised or compiled."""

from __future__ import annotations

from typing import Any

MAX_BODY_BYTES = 8 << 20
BODY_TIMEOUT_S = 30.0
_MOST: dict[str, int] = {
    "messages": 2048,
    "tools": 128,
    "stop": 16,
    "prompt": 64,
    "input": 2048,
    "prompts": 4096,
    "completions": 4096,
    "query": 4096,
    "stop_token_ids": 64,
    "logit_bias": 1024,
}
"""Entries of lists and objects; a prompt or input in text or in tokens is one."""
_LARGEST: dict[str, int] = {"n": 64, "best_of": 64, "logprobs": 20, "top_logprobs": 20, "prompt_logprobs": 20}
_SCHEMAS = ("response_format", "structured_outputs", "tools")
_MOST_STOP_CHARS = 256
_MOST_SCHEMA_DEPTH, _MOST_SCHEMA_PARTS = 32, 4096


def too_much(wanted: dict[str, Any]) -> tuple[str, str] | None:
    """The first field that holds more than is taken, and what is wrong with it. What is of another type than it should
    be is left to vLLM, which tells."""
    for field, most in _MOST.items():
        value = wanted.get(field)
        if isinstance(value, (list, dict)) and len(value) > most and not _is_tokens(field, value):
            return field, f"{field} has {len(value)} entries; {most} are taken at most"
    for field, largest in _LARGEST.items():
        value = wanted.get(field)
        if value is not None and not isinstance(value, int):  # vLLM would take "9" and 9.0 for whole numbers
            return field, f"{field} is no whole number"
        if value is not None and value > largest:
            return field, f"{field} is {value}; {largest} is taken at most"
    stops = wanted.get("stop")
    for stop in stops if isinstance(stops, list) else [stops]:
        if isinstance(stop, str) and len(stop) > _MOST_STOP_CHARS:
            return "stop", f"a stop has {len(stop)} characters; {_MOST_STOP_CHARS} are taken at most"
    for field in _SCHEMAS:
        depth, parts = measured(wanted.get(field))
        if depth > _MOST_SCHEMA_DEPTH:
            return field, f"{field} is nested {depth} deep; {_MOST_SCHEMA_DEPTH} are taken at most"
        if parts > _MOST_SCHEMA_PARTS:
            return field, f"{field} has {parts} parts; {_MOST_SCHEMA_PARTS} are taken at most"
    return None


def measured(value: Any) -> tuple[int, int]:
    """How deep a JSON value is nested (a number is 0), and how many values it is of."""
    depth, parts, level = -1, 0, [value]
    while level:
        depth, parts = depth + 1, parts + len(level)
        level = [
            inner
            for one in level
            if isinstance(one, (list, dict))
            for inner in (one.values() if isinstance(one, dict) else one)
        ]
    return depth, parts


def _is_tokens(field: str, value: Any) -> bool:
    return field in ("prompt", "input") and isinstance(value, list) and bool(value) and isinstance(value[0], int)
