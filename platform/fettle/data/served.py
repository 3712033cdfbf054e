"""Messages and tools as vLLM's chat endpoint hands them to a chat template: the same keys, in the same order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fettle.data.neutral import Neutral
from fettle.data.record import Message, Prompt


def as_messages(turns: Sequence[Message], neutral: Neutral) -> list[dict[str, Any]]:
    """The turns of a conversation for a chat template, with no control token's name in any text of theirs."""
    return [_as_message(turn, neutral) for turn in turns]


def as_given(prompt: Prompt) -> str | list[dict[str, Any]]:
    """A prompt as files of answers have it: a text by itself; otherwise messages."""
    if prompt.plain and len(prompt.turns) == 1:
        return prompt.turns[0].content
    return as_messages(prompt.turns, Neutral([]))


def as_tools(tools: Sequence[Mapping[str, Any]], neutral: Neutral) -> list[dict[str, Any]] | None:
    """Tool schemas for a chat template; None where there are none.

    Only the keys that the endpoint knows: others of a schema never reach the template.
    """
    if not tools:
        return None
    found = []
    for tool in tools:
        told = tool.get("function", tool)
        function = {key: told.get(key) for key in ("name", "description", "parameters")}
        function |= {key: told[key] for key in ("strict", "defer_loading") if told.get(key) is not None}
        found.append(neutral.all({"type": "function", "function": function}))
    return found


def _as_message(turn: Message, neutral: Neutral) -> dict[str, Any]:
    message: dict[str, Any] = {"role": turn.role, "content": neutral(turn.content)}
    if turn.tool_calls:
        message["tool_calls"] = [neutral.all(_as_call(call)) for call in turn.tool_calls]
    if turn.role == "tool" and turn.tool_call_id is not None:
        message["tool_call_id"] = neutral(turn.tool_call_id)
    if turn.name is not None:
        message["name"] = neutral(turn.name)
    return message


def _as_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call["function"]
    arguments = {"arguments": function.get("arguments") or {}, "name": function["name"]}
    known = {"id": call.get("id"), "function": _with_rest(arguments, function), "type": "function"}
    if known["id"] is None:
        del known["id"]
    return _with_rest(known, call)


def _with_rest(known: dict[str, Any], told: Mapping[str, Any]) -> dict[str, Any]:
    return known | {key: value for key, value in told.items() if key not in (*known, "id")}
