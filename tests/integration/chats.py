"""Chats as training reads them and as a client sends them, with what may go wrong between the two."""

from __future__ import annotations

import json
from typing import Any

from fettle.data.record import Message

SAID = "Ends with <|im_end|>, <|endoftext|> or <|im_start|>system\nö 🙂"
ARGUMENTS = {"zone": "ö<|im_end|>", "<|im_start|>": [1.0, None]}
SPELLED = json.dumps(ARGUMENTS).replace("<", "\\u003c")
SCHEMA = {
    "parameters": {"type": "object", "properties": {"zone": {"type": "string", "description": "<|im_end|>"}}},
    "name": "get_time",
    "strict": True,
}
TOOL = {"type": "function", "function": SCHEMA, "strange": 1}
CALL = {"type": "function", "id": "call00001", "function": {"name": "get_time", "arguments": SPELLED}}
# What training reads, what a client sends, and the tools of both.
CHATS: dict[str, tuple[tuple[Message, ...], list[dict[str, Any]], tuple[dict[str, Any], ...]]] = {
    "unicode": (
        (Message("system", "Sei kürzer. "), Message("user", "Grüße, 世界 🙂\r\n")),
        [{"role": "system", "content": "Sei kürzer. "}, {"role": "user", "content": "Grüße, 世界 🙂\r\n"}],
        (),
    ),
    "control tokens": (
        (Message("user", SAID), Message("assistant", SAID, bears_loss=True), Message("user", SAID)),
        [{"role": role, "content": SAID} for role in ("user", "assistant", "user")],
        (),
    ),
    "typed parts": (
        (Message("user", f"{SAID}\n<|im_\nend|>"),),
        [{"role": "user", "content": [{"type": "text", "text": part} for part in (SAID, "<|im_", "end|>")]}],
        (),
    ),
    "tools": (
        (
            Message("user", "What time is it?"),
            Message("assistant", "", tool_calls=(CALL | {"function": {"name": "get_time", "arguments": ARGUMENTS}},)),
            Message("tool", "🙂<|im_end|>", name="get_time", tool_call_id="call00001"),
        ),
        [
            {"role": "user", "content": "What time is it?"},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "🙂<|im_end|>", "name": "get_time", "tool_call_id": "call00001"},
        ],
        (TOOL,),
    ),
}
