"""A list of messages as turns: roles, typed content, loss marks, tool calls and tool schemas."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fettle.data.formats.fields import NUL, Layout, json_in, text_in, wrong
from fettle.data.record import ROLES, Message
from fettle.data.rows import Row, type_name
from fettle.errors import UserError, did_you_mean

CALL = "function_call"
# What messages call a role: OpenAI's words, ShareGPT's, LLaMA-Factory's and ms-swift's.
WORDS = {
    **{role: role for role in ROLES},
    **dict.fromkeys(("human",), "user"),
    **dict.fromkeys(("gpt", "model", "chatgpt"), "assistant"),
    **dict.fromkeys(("observation", "function_response", "tool_response", "function"), "tool"),
    **dict.fromkeys((CALL, "tool_call"), CALL),
}
_MARKS = ("train", "loss", "loss_weight", "weight")
_CALL = '{"name": "…", "arguments": {…}}'


def turns_in(row: Row, layout: Layout, value: Any, field: str, *, learns: bool) -> list[Message]:
    """The turns of a list of messages. learns: the assistant's bear loss, save those marked not to."""
    if type(value) is not list:
        raise wrong(row, field, f"{type_name(value)}, not a list of messages", f"[{_example(('role', 'content'))}, …]")
    if not value:
        raise wrong(row, field, "an empty list", "at least one message")
    keys = _keys_of(value[0], layout)
    role_key, content_key = keys
    words = layout.words
    turns: list[Message] = []
    for place, item in enumerate(value):
        if type(item) is dict and len(item) == 2:  # nothing but a role and a content: nearly every message there is
            word, said = item.get(role_key), item.get(content_key)
            role = words.get(word) if type(word) is str else None
            if role and role != CALL and type(said) is str and NUL not in said:
                turns.append(Message(role, said, learns and role == "assistant"))
                continue
        turn, is_bare_call = _turn(row, layout, keys, item, f"{field}.{place}", learns)
        if is_bare_call and turns and turns[-1].role == "assistant":
            # ShareGPT has a turn for what is said and for each call; OpenAI's templates know one with all of them.
            last = turns.pop()
            turn = Message("assistant", last.content, last.bears_loss, (*last.tool_calls, *turn.tool_calls))
        turns.append(turn)
    return turns


def with_system(row: Row, layout: Layout, turns: list[Message]) -> list[Message]:
    """The turns, after the text of the `system` column where they have no system message of their own."""
    key = layout.columns.get("system")
    system = row.columns[key] if key is not None else None
    if not system or turns[0].role == "system":
        return turns
    return [Message("system", text_in(row, system, str(key))), *turns]


def unlearned(turns: Iterable[Message]) -> tuple[Message, ...]:
    """The turns with none that bears loss, as the prompt of several answers."""
    return tuple(
        Message(turn.role, turn.content, False, turn.tool_calls, turn.name, turn.tool_call_id)
        if turn.bears_loss
        else turn
        for turn in turns
    )


def tools_in(row: Row, layout: Layout, value: Any = None) -> tuple[dict[str, Any], ...]:
    """The tool schemas of the `tools` column, or of `value`: a list, or one in JSON; bare ones are wrapped."""
    field = layout.columns.get("tools", "tools")
    if value is None:
        value = layout.value(row, "tools")
    if isinstance(value, str):
        value = json_in(row, value, field) if value.strip() else None
    if not value:
        return ()
    schemas = [value] if isinstance(value, dict) else value
    if not isinstance(schemas, list):
        raise wrong(row, field, f"{type_name(value)}, not a list of tools", "a list of OpenAI's tool schemas")
    return tuple(_tool(row, item, f"{field}.{place}") for place, item in enumerate(schemas))


def _tool(row: Row, item: Any, field: str) -> dict[str, Any]:
    item = json_in(row, item, field) if isinstance(item, str) else item
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        return item if "type" in item else {"type": "function", **item}
    if isinstance(item, dict) and isinstance(item.get("name"), str):
        return {"type": "function", "function": item}
    got = "an object without a name" if isinstance(item, dict) else type_name(item)
    raise wrong(row, field, f"{got}, not a tool", '{"name": "…", "description": "…", "parameters": {…}}')


def _turn(row: Row, layout: Layout, keys: tuple[str, str], item: Any, field: str, learns: bool) -> tuple[Message, bool]:
    """(one message as a turn, whether it is nothing but tool calls)."""
    if not isinstance(item, dict):
        raise wrong(row, field, f"{type_name(item)}, not a message", _example(keys))
    role_key, content_key = keys
    if role_key not in item:
        raise wrong(row, f"{field}.{role_key}", f"this key is missing{did_you_mean(role_key, item)}", _example(keys))
    role = _role(row, layout, item[role_key], f"{field}.{role_key}")
    calls = _calls(row, item, field)
    content = item.get(content_key)
    if role == CALL:
        found = content
        if isinstance(content, str):
            found = json_in(row, content, f"{field}.{content_key}")
        calls += _call_list(row, found, f"{field}.{content_key}")
        content = None
    if calls and role not in ("assistant", CALL):
        raise wrong(row, field, f"the {role} calls a tool", "tool calls of the assistant")
    if content_key not in item and not calls:
        hint = did_you_mean(content_key, [key for key in item if key != role_key])
        raise wrong(row, f"{field}.{content_key}", f"this key is missing{hint}", _example(keys))
    said = "" if content is None and calls else _content(row, content, f"{field}.{content_key}")
    is_call = role == CALL
    role = "assistant" if is_call else role
    bears_loss = _is_learned(row, item, role, field) and learns and role == "assistant"
    if role != "tool":
        return Message(role, said, bears_loss, calls), is_call
    name, call_id = item.get("name"), item.get("tool_call_id")
    return (
        Message(
            role,
            said,
            name=None if name is None else text_in(row, name, f"{field}.name"),
            tool_call_id=None if call_id is None else text_in(row, call_id, f"{field}.tool_call_id"),
        ),
        False,
    )


def _role(row: Row, layout: Layout, word: Any, field: str) -> str:
    role = layout.words.get(word) if isinstance(word, str) else None
    if role is None:
        hint = did_you_mean(str(word), layout.words)
        fix = None if hint else "if it is another word for one of them, say so: `roles: {user: Customer}` in the recipe"
        raise wrong(row, field, f"unknown role {word!r}{hint}", ", ".join(ROLES), fix)
    return role


def _is_learned(row: Row, item: dict[str, Any], role: str, field: str) -> bool:
    """What the message's own marks say; True without any."""
    is_learned = True
    for key in _MARKS:
        mark = item.get(key)
        if mark is None:
            continue
        if mark not in (0, 1):
            got = f"{mark}, a part of a weight" if isinstance(mark, float) else f"{mark!r}"
            raise wrong(row, f"{field}.{key}", got, "0 or false (not learned), 1 or true (learned); nothing between")
        if mark and role != "assistant":
            raise wrong(row, f"{field}.{key}", f"{mark!r} on a {role} turn: only assistant turns are learned", "0")
        is_learned &= bool(mark)
    return is_learned


def _content(row: Row, value: Any, field: str) -> str:
    """Text, or the text parts of a list of typed parts, joined by line ends as vLLM joins them for most templates."""
    if not isinstance(value, list):
        return text_in(row, value, field)
    parts = []
    for place, part in enumerate(value):
        if isinstance(part, str):
            parts.append(text_in(row, part, f"{field}.{place}"))
            continue
        key = "value" if isinstance(part, dict) and "value" in part else "text"  # LLaMA-Factory's v1 sets say value
        if not (isinstance(part, dict) and part.get("type", "text") == "text" and key in part):
            got = f"a part of type {part.get('type')!r}" if isinstance(part, dict) else type_name(part)
            raise wrong(row, f"{field}.{place}", f"{got}; only text is read", '{"type": "text", "text": "…"}')
        parts.append(text_in(row, part[key], f"{field}.{place}.{key}"))
    return "\n".join(parts)


def _calls(row: Row, item: dict[str, Any], field: str) -> tuple[dict[str, Any], ...]:
    """The calls under OpenAI's `tool_calls`, and its older `function_call`."""
    calls: tuple[dict[str, Any], ...] = ()
    if listed := item.get("tool_calls"):
        where = f"{field}.tool_calls"
        calls = _call_list(row, json_in(row, listed, where) if isinstance(listed, str) else listed, where)
    if old := item.get("function_call"):
        calls += (_call(row, old, f"{field}.function_call"),)
    return calls


def _call_list(row: Row, value: Any, field: str) -> tuple[dict[str, Any], ...]:
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise wrong(row, field, "an empty list", f"at least one call, {_CALL}")
    if len(calls) == 1:
        return (_call(row, calls[0], f"{field}.0" if isinstance(value, list) else field),)
    return tuple(_call(row, call, f"{field}.{place}") for place, call in enumerate(calls))


def _call(row: Row, value: Any, field: str) -> dict[str, Any]:
    """A call as OpenAI has it, with its arguments as an object: so vLLM hands it to the template when it serves."""
    if not isinstance(value, dict):
        raise wrong(row, field, f"{type_name(value)}, not a call", _CALL)
    function = value.get("function", value)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        where = f"{field}.function" if "function" in value else field
        raise wrong(row, where, "no name of the tool that is called", _CALL)
    where = f"{field}.function.arguments" if "function" in value else f"{field}.arguments"
    arguments = function.get("arguments") or {}
    if isinstance(arguments, str):
        arguments = json_in(row, arguments, where)
    if not isinstance(arguments, dict):
        raise wrong(row, where, f"{type_name(arguments)}, not an object", "an object, or one in JSON")
    call: dict[str, Any] = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    if value.get("id") is not None:
        call["id"] = text_in(row, value["id"], f"{field}.id")
    return call


def _keys_of(first: Any, layout: Layout) -> tuple[str, str]:
    """Where messages keep role and content, told from the first: OpenAI's keys or ShareGPT's, save those named."""
    role, content = layout.keys
    there = first if type(first) is dict else {}
    role = role or ("from" if "from" in there and "role" not in there else "role")
    is_value = "content" not in there and ("value" in there or role == "from")
    return role, content or ("value" if is_value else "content")


def _example(keys: tuple[str, str]) -> str:
    word = "human" if keys[0] == "from" else "user"
    return f'{{"{keys[0]}": "{word}", "{keys[1]}": "…"}}'


def nothing_learned(row: Row, field: str, turns: Iterable[Message]) -> UserError:
    """Why a conversation without a turn that bears loss is refused."""
    roles = ", ".join(dict.fromkeys(turn.role for turn in turns))
    if "assistant" in roles:
        got = "every assistant turn is marked as not learned: nothing to learn"
        return wrong(row, field, got, "an assistant turn without train: false, loss: false or a weight of 0")
    return wrong(row, field, f"no assistant message, only {roles}: nothing to learn", "a turn with role assistant")
