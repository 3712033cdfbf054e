"""A record: one canonical example, whatever the format of the file it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct

RecordKind = Literal["text", "messages", "prompt_completion", "preference", "unpaired", "stepwise", "prompt", "label"]
ROLES = ("system", "user", "assistant", "tool")


class Message(Struct, frozen=True):
    """One turn of a conversation. bears_loss: the model learns to say it.

    tool_calls: OpenAI's objects, with `arguments` as an object. name, tool_call_id: of a tool's reply.
    """

    role: str
    content: str
    bears_loss: bool = False
    tool_calls: tuple[dict[str, Any], ...] = ()
    name: str | None = None
    tool_call_id: str | None = None


class Prompt(Struct, frozen=True):
    """What comes before a completion, twice: for a base with a chat template, and for one without.

    turns: the conversation up to the answer. plain: prompt, answer, prompt, …, prompt as bare text (an odd number);
    none for messages, which need a template.
    """

    turns: tuple[Message, ...]
    plain: tuple[str, ...] = ()


class Answer(Struct, frozen=True):
    """One of several answers to a prompt: the messages it consists of, mostly one, each marked to bear loss."""

    turns: tuple[Message, ...]
    score: float | None = None


class Record(Struct, frozen=True):
    """What a row means; which fields are given decides its kind. Where it came from is for error messages.

    line: counts from 1; the line (or row of a table) on which the record begins.
    text: a document, every token of which is learned; with `label`, what is to be classified.
    messages: a conversation. prompt and completion: a question and its answer; a prompt alone is for reinforcement
    learning. answers: of a preference, best first; of an unpaired record, one, which `label` calls good or bad.
    steps: of a stepwise record, with one of `label` each. margin: by how much the first answer is better.
    tools: OpenAI's tool schemas, which the chat template shows the model. columns: what else the row of a prompt holds,
    for reward functions.
    """

    file: Path
    line: int
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    prompt: Prompt | None = None
    completion: str | None = None
    answers: tuple[Answer, ...] = ()
    steps: tuple[str, ...] = ()
    label: str | bool | tuple[bool, ...] | None = None
    margin: float | None = None
    tools: tuple[dict[str, Any], ...] = ()
    columns: Mapping[str, Any] = {}

    @property
    def kind(self) -> RecordKind:
        """What it can be learned as."""
        if self.text is not None:
            return "text" if self.label is None else "label"
        if self.messages is not None:
            return "messages"
        if self.answers:
            return "preference" if self.label is None else "unpaired"
        if self.steps:
            return "stepwise"
        return "prompt" if self.completion is None else "prompt_completion"

    @property
    def conversation(self) -> tuple[Message, ...]:
        """The turns a chat template renders; none for a text. Of several answers none: see `parts`."""
        if self.prompt is not None:
            if self.completion is None:
                return self.prompt.turns
            return (*self.prompt.turns, Message("assistant", self.completion, bears_loss=True))
        return self.messages or ()

    def parts(self) -> Iterator[tuple[str, Record]]:
        """(name, what a model reads at once): the record itself, without a name, or one for each of its answers."""
        if not self.answers and not self.steps:
            yield "", self
            return
        assert self.prompt is not None
        if self.steps:
            yield "steps", Record(self.file, self.line, prompt=self.prompt, completion="\n".join(self.steps))
            return
        names = ["chosen", "rejected"]
        if self.label is not None:
            names = ["good" if self.label else "bad"]
        elif len(self.answers) != 2:
            names = [f"answer {place + 1}" for place in range(len(self.answers))]
        for name, answer in zip(names, self.answers, strict=True):
            yield name, self._with(answer)

    def values(self) -> tuple[float, ...]:
        """Of a preference each answer's score, or the first one's margin; of an unpaired answer 1 if it is good."""
        if self.kind == "unpaired":
            return (float(bool(self.label)),)
        if any(answer.score is None for answer in self.answers):
            return (self.margin or 0.0, *(0.0 for _ in self.answers[1:]))
        return tuple(answer.score or 0.0 for answer in self.answers)

    def _with(self, answer: Answer) -> Record:
        assert self.prompt is not None
        if len(answer.turns) == 1 and not answer.turns[0].tool_calls:
            said = answer.turns[0].content
            return Record(self.file, self.line, prompt=self.prompt, completion=said, tools=self.tools)
        return Record(self.file, self.line, messages=(*self.prompt.turns, *answer.turns), tools=self.tools)
