"""Conversations: OpenAI's messages, and ShareGPT's `conversations` with its many dialects."""

from __future__ import annotations

from typing import Any

from fettle.data.formats.fields import Layout, text_in
from fettle.data.formats.turns import nothing_learned, tools_in, turns_in, with_system
from fettle.data.record import Message, Record
from fettle.data.rows import Row


def from_messages(row: Row, layout: Layout) -> Record:
    """OpenAI's `{"messages": [{"role": …, "content": …}, …]}`, of which the assistant's turns are learned."""
    return _record(row, layout, layout.columns["messages"])


def from_sharegpt(row: Row, layout: Layout) -> Record:
    """ShareGPT's `{"conversations": [{"from": …, "value": …}, …]}`, of which the assistant's turns are learned."""
    return _record(row, layout, layout.columns["conversations"])


def _record(row: Row, layout: Layout, field: str) -> Record:
    turns = conversation_in(row, layout, row.columns[field], field, learns=True)
    for turn in turns:
        if turn.bears_loss:
            break
    else:
        raise nothing_learned(row, field, turns)
    tools = tools_in(row, layout) if "tools" in layout.columns else ()
    return Record(row.file, row.line, messages=tuple(turns), tools=tools)


def conversation_in(row: Row, layout: Layout, value: Any, field: str, *, learns: bool) -> list[Message]:
    """The turns of a conversation, with the system column's text first."""
    if _is_pairs(value):
        turns = _paired_turns(row, value, field, learns)
    else:
        turns = turns_in(row, layout, value, field, learns=learns)
    return with_system(row, layout, turns) if "system" in layout.columns else turns


def _is_pairs(value: Any) -> bool:
    """ms-swift's `[{"human": "…", "assistant": "…"}, …]`."""
    first = value[0] if type(value) is list and value else None
    return type(first) is dict and "human" in first and "assistant" in first


def _paired_turns(row: Row, value: list[Any], field: str, learns: bool) -> list[Message]:
    turns = []
    for place, pair in enumerate(value):
        pair = pair if isinstance(pair, dict) else {}
        for key, role in (("human", "user"), ("assistant", "assistant")):
            said = text_in(row, pair.get(key), f"{field}.{place}.{key}")
            turns.append(Message(role, said, learns and role == "assistant"))
    return turns
