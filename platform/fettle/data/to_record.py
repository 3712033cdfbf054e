"""A row of each format to the record it means, or the line and field of what is wrong with it."""

from __future__ import annotations

from typing import Any

from fettle.data.record import ROLES, Message, Prompt, Record
from fettle.data.rows import Row, type_name
from fettle.errors import UserError, did_you_mean

# Stanford Alpaca's prompts (Taori et al. 2023), for a base that has no chat template.
_PREAMBLE = (
    "Below is an instruction that describes a task{paired}. Write a response that appropriately completes the request."
)
_PAIRED = ", paired with an input that provides further context"
# A message's marks that fettle would otherwise silently train against.
_UNREAD = {
    "tool_calls": "tool calls are",
    "function_call": "function calls are",
    "train": "`train: false` is",
    "loss": "`loss: false` is",
    "loss_weight": "a loss weight of 0 on an answer is",
    "weight": "a weight of 0 on an answer is",
}


def from_text(row: Row) -> Record:
    """`{"text": "…"}`: a document."""
    return Record(row.file, row.line, text=_text(row, row.columns["text"], "text"))


def from_prompt_completion(row: Row) -> Record:
    """`{"prompt": …, "completion": …}`, both text, or both messages, of which only the completion's are learned."""
    prompt, completion = row.columns["prompt"], row.columns["completion"]
    if isinstance(prompt, list) and isinstance(completion, list):
        turns = [*_messages(row, "prompt", bears_loss=False), *_messages(row, "completion", bears_loss=True)]
        return _conversation(row, turns, "completion")
    if isinstance(prompt, list) != isinstance(completion, list):
        got = f"prompt is {type_name(prompt)} and completion {type_name(completion)}"
        raise _wrong(row, "completion", got, "both text, or both lists of messages")
    asked, answer = _text(row, prompt, "prompt"), _text(row, completion, "completion")
    return Record(row.file, row.line, prompt=Prompt((Message("user", asked),), (asked,)), completion=answer)


def from_alpaca(row: Row) -> Record:
    """`instruction, output`, with or without `input, system, history`; the answers in `history` are learned too."""
    instruction = _text(row, row.columns["instruction"], "instruction")
    given = _text(row, row.columns.get("input") or "", "input")
    system = _text(row, row.columns.get("system") or "", "system")
    history = _history(row)
    turns = [Message("system", system)] if system else []
    plain: list[str] = []
    for asked, answer in history:
        turns += [Message("user", asked), Message("assistant", answer, bears_loss=True)]
        plain += [_alpaca_prompt(asked, "", system, is_first=not plain), answer]
    turns.append(Message("user", "\n".join(part for part in (instruction, given) if part)))
    plain.append(_alpaca_prompt(instruction, given, system, is_first=not plain))
    answer = _text(row, row.columns["output"], "output")
    return Record(row.file, row.line, prompt=Prompt(tuple(turns), tuple(plain)), completion=answer)


def from_messages(row: Row) -> Record:
    """`{"messages": [{"role", "content"}, …]}`: a conversation, of which the assistant's turns are learned."""
    if row.columns.get("tools"):
        raise _wrong(row, "tools", "tools are not read yet", "conversations without tools")
    return _conversation(row, _messages(row, "messages", bears_loss=True), "messages")


def _conversation(row: Row, turns: list[Message], field: str) -> Record:
    if not any(turn.bears_loss for turn in turns):
        roles = ", ".join(dict.fromkeys(turn.role for turn in turns))
        raise _wrong(row, field, f"no assistant message, only {roles}: nothing to learn", "a turn with role assistant")
    return Record(row.file, row.line, messages=tuple(turns))


def _messages(row: Row, field: str, *, bears_loss: bool) -> list[Message]:
    value = row.columns[field]
    if not isinstance(value, list):
        raise _wrong(row, field, f"{type_name(value)}, not a list of messages", '[{"role": "user", "content": "…"}, …]')
    if not value:
        raise _wrong(row, field, "an empty list", "at least one message")
    return [_message(row, f"{field}.{place}", item, bears_loss) for place, item in enumerate(value)]


def _message(row: Row, field: str, value: Any, bears_loss: bool) -> Message:
    if not isinstance(value, dict):
        raise _wrong(row, field, f"{type_name(value)}, not a message", '{"role": "user", "content": "…"}')
    for key in ("role", "content"):
        if key not in value:
            hint = ' (ShareGPT\'s "from" and "value"?)' if "from" in value else did_you_mean(key, value)
            raise _wrong(row, f"{field}.{key}", f"this key is missing{hint}", '{"role": "user", "content": "…"}')
    role = value["role"]
    if role not in ROLES:
        raise _wrong(row, f"{field}.role", f"unknown role {role!r}{did_you_mean(str(role), ROLES)}", ", ".join(ROLES))
    for key, what in _UNREAD.items():
        is_call = key.endswith(("call", "calls"))
        if (is_call and value.get(key)) or (not is_call and role == "assistant" and value.get(key, True) in (False, 0)):
            raise _wrong(row, f"{field}.{key}", f"{what} not read yet", "answers that are all learned, as text")
    return Message(role, _content(row, value["content"], f"{field}.content"), bears_loss and role == "assistant")


def _content(row: Row, value: Any, field: str) -> str:
    """Text, or the text parts of a list of typed parts, joined by line ends as vLLM joins them for most templates."""
    if not isinstance(value, list):
        return _text(row, value, field)
    parts = []
    for place, part in enumerate(value):
        key = "value" if isinstance(part, dict) and "value" in part else "text"  # LLaMA-Factory's v1 sets say value
        if not (isinstance(part, dict) and part.get("type") == "text" and key in part):
            got = f"a part of type {part.get('type')!r}" if isinstance(part, dict) else type_name(part)
            raise _wrong(row, f"{field}.{place}", f"{got}; only text is read", '{"type": "text", "text": "…"}')
        parts.append(_text(row, part[key], f"{field}.{place}.{key}"))
    return "\n".join(parts)


def _history(row: Row) -> list[tuple[str, str]]:
    value = row.columns.get("history") or []
    expected = '[["first question", "first answer"], …]'
    if not isinstance(value, list):
        raise _wrong(row, "history", f"{type_name(value)}, not a list of pairs", expected)
    for place, pair in enumerate(value):
        if not (isinstance(pair, list) and len(pair) == 2):
            raise _wrong(row, f"history.{place}", "not a pair of question and answer", expected)
    return [
        (_text(row, asked, f"history.{place}.0"), _text(row, answer, f"history.{place}.1"))
        for place, (asked, answer) in enumerate(value)
    ]


def _alpaca_prompt(instruction: str, given: str, system: str, *, is_first: bool) -> str:
    """The classic prompt; a later turn has no preamble, and a system text of the row's own takes its place."""
    preamble = (system or _PREAMBLE.format(paired=_PAIRED if given else "")) + "\n\n" if is_first else "\n\n"
    middle = f"\n\n### Input:\n{given}" if given else ""
    return f"{preamble}### Instruction:\n{instruction}{middle}\n\n### Response:\n"


def _text(row: Row, value: Any, field: str) -> str:
    if not isinstance(value, str):
        raise _wrong(row, field, f"{type_name(value)}, not text", "text")
    if not value.isascii():
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as error:
            got = f"half of a surrogate pair (\\u{ord(value[error.start]):04x}), which is no character"
            raise _wrong(row, field, got, "whole characters") from None
    return value


def _wrong(row: Row, field: str, got: str, expected: str) -> UserError:
    return UserError(got, file=row.file, line=row.line, field=field, expected=expected)
