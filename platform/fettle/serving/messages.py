"""A chat request as training would have its messages: the names of control tokens stay text, whoever wrote them."""

from __future__ import annotations

import json
from typing import Any

from fettle.data.neutral import Neutral

_RENDERED = ("tools", "documents", "chat_template_kwargs")


def as_learned(request: dict[str, Any], neutral: Neutral) -> dict[str, Any]:
    """The request with all that reaches the chat template neutral. Anything that is amiss in it is left for vLLM to
    refuse. Raises RecursionError for nesting that Python cannot follow."""
    changed = {key: neutral.all(request[key]) for key in _RENDERED if key in request}
    if isinstance(request.get("messages"), list):
        changed["messages"] = [neutral.all(_plain(message)) for message in request["messages"]]
    return request | changed


def _plain(message: Any) -> Any:
    """The message with its content as one text and its calls' arguments spelled without escapes, in which a name could
    hide: vLLM joins the parts and reads the arguments only after us."""
    if not isinstance(message, dict):
        return message
    message = dict(message)
    content, calls = message.get("content"), message.get("tool_calls")
    if isinstance(content, list) and content and all(_text(part) is not None for part in content):
        message["content"] = "\n".join(_text(part) or "" for part in content)
    if isinstance(calls, list):
        message["tool_calls"] = [_plain_call(call) for call in calls]
    return message


def _text(part: Any) -> str | None:
    if isinstance(part, dict) and part.get("type") == "text":
        part = part.get("text")
    return part if isinstance(part, str) else None


def _plain_call(call: Any) -> Any:
    if not (isinstance(call, dict) and isinstance(call.get("function"), dict)):
        return call
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        spelled = json.dumps(json.loads(arguments), ensure_ascii=False)
    except ValueError:
        return call
    return call | {"function": call["function"] | {"arguments": spelled}}
