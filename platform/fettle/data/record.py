"""A record: one canonical example, whatever the format of the file it came from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

RecordKind = Literal["text", "messages", "prompt_completion"]
ROLES = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. bears_loss: the model learns to say it."""

    role: str
    content: str
    bears_loss: bool = False


@dataclass(frozen=True, slots=True)
class Prompt:
    """What comes before a completion, twice: for a base with a chat template, and for one without.

    turns: the conversation up to the answer. plain: prompt, answer, prompt, …, prompt as bare text (an odd number).
    """

    turns: tuple[Message, ...]
    plain: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Record:
    """Exactly one of `text`, `messages`, and `prompt` with `completion`; where it came from is for error messages.

    line: counts from 1; the line on which the record begins. text: a document, every token of which is learned.
    """

    file: Path
    line: int
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt: Prompt | None = None
    completion: str | None = None

    def __post_init__(self) -> None:
        given = [self.text is not None, self.messages is not None, self.prompt is not None]
        assert sum(given) == 1 and (self.prompt is None) == (self.completion is None), "one kind of content a record"

    @property
    def kind(self) -> RecordKind:
        """Which of the three it is."""
        if self.text is not None:
            return "text"
        return "messages" if self.messages is not None else "prompt_completion"

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The turns a chat template renders; none for a text."""
        if self.prompt is not None:
            assert self.completion is not None
            return (*self.prompt.turns, Message("assistant", self.completion, bears_loss=True))
        return self.messages or ()

    def digest(self) -> str:
        """Hexadecimal hash (128 bits) of what is learned; equal content has the same in every format and place."""
        parts = [self.text] if self.text is not None else []
        for message in self.conversation:
            parts += [message.role, message.content, "+" if message.bears_loss else "-"]
        total = hashlib.blake2b(digest_size=16)
        for part in parts:
            content = part.encode("utf-8", "surrogatepass")
            total.update(len(content).to_bytes(8, "big") + content)
        return total.hexdigest()
