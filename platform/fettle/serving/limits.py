"""What a request may hold at most, looked at before anything is tokenised or compiled."""

from __future__ import annotations

from typing import Any

from fettle.serving.grammars import too_hard

MAX_BODY_BYTES = 8 << 20
MAX_BODIES_BYTES = 64 * MAX_BODY_BYTES
BODY_TIMEOUT_S = 30.0
MOST: dict[str, int] = {
    "messages": 2048,
    "tools": 128,
    "stop": 4,
    "prompt": 64,
    "input": 2048,
    "prompts": 4096,
    "completions": 4096,
    "query": 4096,
    "stop_token_ids": 64,
    "logit_bias": 1024,
}
"""Entries of lists and objects; a prompt or input in text or in tokens is one."""
LARGEST: dict[str, int] = {"n": 64, "best_of": 64, "logprobs": 20, "top_logprobs": 20, "prompt_logprobs": 20}
REFUSED: dict[str, str] = {
    "chat_template": "the chat template is the model's; a request cannot bring one",
    **dict.fromkeys(("prompt_embeds", "mm_processor_kwargs", "media_io_kwargs"), "models here read text alone"),
    **dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "vllm_xargs"), "it is between vLLM's own processes"),
    "priority": "all requests wait in one line",
}
"""Fields of vLLM's that no request may have, and why."""
MOST_STOP_CHARS = 256
_MOST_FIELDS, _MOST_DEPTH = 256, 128
_INT64 = 1 << 63
_TEXTS = ("text", "input_text", "output_text", "refusal", "thinking")


def too_much(wanted: dict[str, Any]) -> tuple[str | None, str] | None:
    """The first field that holds more than is taken, None for the whole, and what is wrong with it. What is of another
    type than it should be is left to vLLM, which tells."""
    if len(wanted) > _MOST_FIELDS:
        return None, f"{len(wanted)} fields; {_MOST_FIELDS} are taken at most"
    if _is_deeper(wanted, _MOST_DEPTH):  # than Ray can pickle: that is some 300
        return None, f"the request's body is nested too deeply; {_MOST_DEPTH} are taken at most"
    for field, why in REFUSED.items():
        if wanted.get(field) is not None:
            return field, f"{field}: {why}"
    if isinstance(extra := wanted.get("chat_template_kwargs"), dict) and "chat_template" in extra:
        return "chat_template", REFUSED["chat_template"]
    for field, value in wanted.items():
        if isinstance(value, int) and not -_INT64 <= value < _INT64:  # vLLM fails over a top_k like that
            return field[:80], "a whole number beyond 64 bits"
    for field, most in MOST.items():
        value = wanted.get(field)
        if isinstance(value, (list, dict)) and len(value) > most and not _is_tokens(field, value):
            return field, f"{field} has {len(value)} entries; {most} are taken at most"
    for field, largest in LARGEST.items():
        value = wanted.get(field)
        if value is not None and not isinstance(value, int):  # vLLM would take "9" and 9.0 for whole numbers
            return field, f"{field} is no whole number"
        if value is not None and value > largest:
            return field, f"{field} is {value}; {largest} is taken at most"
    stops = wanted.get("stop")
    for stop in stops if isinstance(stops, list) else [stops]:
        if isinstance(stop, str) and len(stop) > MOST_STOP_CHARS:
            return "stop", f"a stop has {len(stop)} characters; {MOST_STOP_CHARS} are taken at most"
    return _unread(wanted.get("messages")) or too_hard(wanted)


def _is_deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (list, dict))
        ]
        if not level:
            return False
    return True


def _unread(messages: Any) -> tuple[str, str] | None:
    """A part of a message that no model here reads. vLLM would fetch the address in it, for a model that sees."""
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, dict) else None
        for part in content if isinstance(content, list) else ():
            kind = part.get("type", "text" if "text" in part else None) if isinstance(part, dict) else "text"
            if kind not in _TEXTS:
                return "messages", f"a part of a message is of type {str(kind)[:80]}; models here read text alone"
    return None


def _is_tokens(field: str, value: Any) -> bool:
    return field in ("prompt", "input") and isinstance(value, list) and bool(value) and isinstance(value[0], int)
