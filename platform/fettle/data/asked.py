"""What a record asks, without what it answers, and the same with another's answer."""

from __future__ import annotations

from fettle.data.record import Message, Prompt, Record


def as_prompt(record: Record) -> Record:
    """A prompt without its completion, or a conversation up to its last answer; nothing in it bears loss."""
    if record.messages is None:
        assert record.prompt is not None
        turns, plain = record.prompt.turns, record.prompt.plain
    else:
        turns, plain = record.messages, ()
        turns = turns[:-1] if turns[-1].role == "assistant" else turns
    given = tuple(Message(t.role, t.content, False, t.tool_calls, t.name, t.tool_call_id) for t in turns)
    return Record(record.file, record.line, prompt=Prompt(given, plain), tools=record.tools)


def with_answer(prompt: Record, answer: str) -> Record:
    """A prompt with its answer, which alone bears loss."""
    assert prompt.prompt is not None
    if prompt.prompt.plain:
        return Record(prompt.file, prompt.line, prompt=prompt.prompt, completion=answer, tools=prompt.tools)
    turns = (*prompt.prompt.turns, Message("assistant", answer, bears_loss=True))
    return Record(prompt.file, prompt.line, messages=turns, tools=prompt.tools)
