"""A record as the text a model sees, with the stretches that bear loss: through the chat template, or plain."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from fettle.data.neutral import Neutral, flagged
from fettle.data.plain import plain_pairs
from fettle.data.record import Message, Prompt, Record
from fettle.data.served import as_messages, as_tools
from fettle.errors import UserError

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ASKED, _SAID = Message("user", "A question?"), Message("assistant", "An answer.", bears_loss=True)
_ASKED_AGAIN = Message("user", "Another one?")
_UNSAID = "\ufdd0"  # which Unicode keeps out of text: it stands for an answer that is not to be rendered
_FUNCTION = {"name": "a_function", "arguments": {"key": "an_argument"}}
_CALL = {"id": "call00001", "type": "function", "function": _FUNCTION}
_CALLED = Message("assistant", "", bears_loss=True, tool_calls=(_CALL,))
_REPLIED = Message("tool", "A reply.", name="a_function", tool_call_id="call00001")
_SCHEMA = {"name": "a_function", "description": "A schema.", "parameters": {"type": "object", "properties": {}}}
_TOOLS = ({"type": "function", "function": _SCHEMA},)


@dataclass(frozen=True)
class Rendered:
    """spans: (first, one past last) characters of `text` that bear loss, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A tokenizer's chat template, and which characters of its renderings bear loss: the assistant's turns, from the
    first character that serving would leave to the model, up to the end-of-turn token and with it.

    A turn begins where the generation prompt of the turns before it ends, and ends with the first end-of-turn token
    from there: no text of a message can hold one. Templates that mark the assistant's words (`{% generation %}`) are
    taken at their word, save that the end-of-turn token always bears loss and what follows it never does.

    end_of_turn: the token after an answer; None where the template has none, so that a model cannot learn to stop.
    ending: all that the template writes after an answer. neutral: breaks the names of control tokens in messages, which
    are those flagged special, those that frame a user's turn, and the end of turn.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises UserError where the template cannot render a question and an answer."""
        self._templates = {False: tokenizer.get_chat_template(), True: tokenizer.get_chat_template(tools=[{}])}
        self._has_marks = {key: bool(_MARKS.search(template)) for key, template in self._templates.items()}
        self._names: dict[str, Any] = tokenizer.special_tokens_map
        self._file = Path(str(tokenizer.name_or_path))
        specials = flagged(tokenizer)
        added = {token for token in (*tokenizer.get_added_vocab(), *specials) if token.strip()}
        self.neutral = Neutral(specials)
        asked, said = self._probe(_ASKED), self._probe(_ASKED, _SAID)
        if _SAID.content not in said:
            raise UserError("the chat template leaves out what the assistant says", file=self._file)
        tail = said.rpartition(_SAID.content)[2]
        self.ending = tail.strip()
        ends = [(tail.find(token), -len(token), token) for token in added if token in tail]
        self.end_of_turn = min(ends)[2] if ends else None
        self.neutral = Neutral({*specials, *(token for token in added if token in asked), *(end[2] for end in ends)})
        self._is_apart = self._keeps_apart(_ASKED, _SAID, _ASKED_AGAIN, _SAID)

    def render(self, record: Record) -> Rendered:
        """The record's conversation; a prompt alone ends as serving sends it and bears no loss.

        Raises UserError (file, line) where the template refuses it, hides its turns, or leaves out its tool calls.
        """
        turns = record.conversation
        self._check_tools(record)
        chat, tools = as_messages(turns, self.neutral), as_tools(record.tools, self.neutral)
        if record.kind == "prompt":
            return Rendered(self._render(chat, tools, record, add_generation_prompt=True)[0], ())
        text, marks = self._render(chat, tools, record)
        answers = [place for place, turn in enumerate(turns) if turn.role == "assistant"]
        spans = []
        for number, place in enumerate(answers):
            if not turns[place].bears_loss:
                continue
            if len(marks) == len(answers):
                spans.append(self._marked(text, *marks[number]))
            else:
                spans.append(self._stretch(record, chat, tools, text, place))
        return Rendered(text, tuple(spans))

    def left_out(self, record: Record) -> str | None:
        """The role of the first turn whose words the template does not show, thoughts in `<think>` aside."""
        text = self.render(record).text
        return next((turn.role for turn in record.conversation if not self._shows(turn, text)), None)

    def following(self, turns: Sequence[Message], added: Sequence[Message], record: Record) -> str:
        """What stands after the end-of-turn token of an answer to `turns` that `added` follow, up to what serving puts
        before the answer to these. record: whose tools are shown, and whose place an error tells.

        Raises UserError where the template refuses these turns, or does not show `added` after such a token.
        """
        # In the answer's place, since templates trim an answer, or leave its thoughts out once others follow.
        asked = Prompt((*turns, Message("assistant", _UNSAID), *added))
        text = self.render(Record(record.file, record.line, prompt=asked, tools=record.tools)).text
        after = text.partition(_UNSAID)[2].partition(self.end_of_turn or _UNSAID)[2]
        for turn in added:
            if not after or not self._shows(turn, after):
                raise UserError(
                    f"the chat template leaves out what the {turn.role} says after an answer",
                    file=record.file,
                    line=record.line,
                )
        return after

    @property
    def shows_schemas(self) -> bool:
        """Whether the tools that a record brings reach the model."""
        return "schemas" not in self._dropped

    def _shows(self, turn: Message, text: str) -> bool:
        words = self.neutral(turn.content.rpartition("</think>")[2].strip())
        return words in text or json.dumps(words, ensure_ascii=False)[1:-1] in text

    def _stretch(
        self, record: Record, chat: list[dict[str, Any]], tools: list[dict[str, Any]] | None, text: str, place: int
    ) -> tuple[int, int]:
        """Where the turn at `place` lies in `text`: from the end of its generation prompt up to its end."""
        opening, _ = self._render(chat[:place], tools, record, add_generation_prompt=True)
        if not text.startswith(opening):
            raise self._hidden(record, place, f"what serving puts before the answer, `{opening[-40:]}`, is not there")
        if self.end_of_turn is None:
            whole = text if place == len(chat) - 1 else self._render(chat[: place + 1], tools, record)[0]
            if not (text.startswith(whole) and whole.startswith(opening)):
                raise self._hidden(record, place, "its rendering depends on later turns")
            return len(opening), len(whole)
        end = text.find(self.end_of_turn, len(opening))
        apart = self._is_apart and (not chat[place].get("tool_calls") or self._calls_are_apart)
        if end < 0 or (place < len(chat) - 1 and not apart):
            raise self._hidden(record, place, f"it does not end with {self.end_of_turn}, as a last answer does")
        return len(opening), end + len(self.end_of_turn)

    def _marked(self, text: str, start: int, end: int) -> tuple[int, int]:
        """A stretch that the template marked, up to its end-of-turn token, which the marks may leave out."""
        if self.end_of_turn is not None:
            found = text.find(self.end_of_turn, start)
            if found >= 0 and not text[end:found].strip():
                return start, found + len(self.end_of_turn)
        return start, end

    def _check_tools(self, record: Record) -> None:
        turns = record.conversation
        for kind, is_there in (
            ("calls", any(turn.tool_calls for turn in turns)),
            ("replies", any(turn.role == "tool" for turn in turns)),
        ):
            if is_there and kind in self._dropped:
                raise UserError(
                    f"the chat template leaves out tool {kind}: the model would never see them",
                    file=record.file,
                    line=record.line,
                    fix="use a template that has tools, such as the recipe's `chat_template: chatml`",
                )

    @cached_property
    def _dropped(self) -> set[str]:
        """Of calls, replies and schemas those that the template says nothing of. What it refuses is told elsewhere."""
        probes: dict[str, tuple[str, tuple[Message, ...]]] = {
            "calls": ("an_argument", (_ASKED, _CALLED)),
            "replies": (_REPLIED.content, (_ASKED, _CALLED, _REPLIED, _SAID)),
            "schemas": ("A schema.", (_ASKED, _SAID)),
        }
        dropped = set()
        for kind, (words, turns) in probes.items():
            try:
                if words not in self._probe(*turns, tools=_TOOLS):
                    dropped.add(kind)
            except UserError:
                continue
        return dropped

    @cached_property
    def _calls_are_apart(self) -> bool:
        return self._keeps_apart(_ASKED, _CALLED, _REPLIED, _SAID)

    def _keeps_apart(self, *turns: Message) -> bool:
        """Whether the end-of-turn token that ends a last answer also ends the first one of these, before what follows.
        What the template refuses is told where a record has it."""
        if self.end_of_turn is None:
            return True
        try:
            opening, whole = self._probe(turns[0], generation_prompt=True), self._probe(*turns)
        except UserError:
            return True
        end, following = whole.find(self.end_of_turn, len(opening)), whole.find(turns[2].content)
        return not whole.startswith(opening) or following < 0 or end < following

    def _probe(self, *turns: Message, tools: Sequence[Any] = (), generation_prompt: bool = False) -> str:
        record = Record(self._file, 0)
        chat, schemas = as_messages(turns, self.neutral), as_tools(tools, self.neutral)
        return self._render(chat, schemas, record, add_generation_prompt=generation_prompt)[0]

    def _render(
        self,
        chat: list[dict[str, Any]],
        tools: list[Any] | None,
        record: Record,
        *,
        add_generation_prompt: bool = False,
    ) -> tuple[str, list[tuple[int, int]]]:
        """(text, the template's own marks) of some turns."""
        key = tools is not None
        try:
            found: Any = render_jinja_template(  # annotated as text, but gives (texts, marks)
                conversations=[chat],
                tools=tools,
                chat_template=self._templates[key],
                add_generation_prompt=add_generation_prompt,
                return_assistant_tokens_mask=self._has_marks[key] and not add_generation_prompt,
                **self._names,
            )
        except Exception as error:  # a template is a program, not ours; it may raise anything
            told = error if isinstance(error, TemplateError) else f"{type(error).__name__}: {error}"
            raise UserError(
                f"the chat template refuses these messages: {told}",
                file=record.file,
                line=record.line or None,
                fix="change the record, or use another template (the recipe's `chat_template`)",
            ) from None
        texts, marks = found
        return texts[0], [(start, end) for start, end in marks[0]] if marks else []

    def _hidden(self, record: Record, place: int, why: str) -> UserError:
        return UserError(
            f"the chat template does not show which tokens are the assistant's (turn {place + 1}): {why}",
            file=record.file,
            line=record.line,
            expected="a template that renders turn after turn, or marks answers with {% generation %}",
        )


def template_of(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """The tokenizer's chat template, or None where it has none."""
    return ChatTemplate(tokenizer) if tokenizer.chat_template else None


def neutral_of(tokenizer: PreTrainedTokenizerBase) -> Neutral:
    """What breaks the names of control tokens in messages; where the template renders nothing, of the special ones."""
    try:
        template = template_of(tokenizer)
    except UserError:
        template = None
    return template.neutral if template else Neutral(flagged(tokenizer))


def check_template(tokenizer: PreTrainedTokenizerBase, **where: Any) -> None:
    """Raises UserError unless answers end with a token of this tokenizer under a template that the user has chosen.

    where: file, line, field of the error.
    """
    template = template_of(tokenizer)
    if template is not None and template.end_of_turn is None:
        raise UserError(
            f"this template ends answers with `{template.ending}`, which is no single token of the base: "
            "the model could not learn to stop",
            **where,
            fix="choose another template, or a base that has this token",
        )


def rendering_of(record: Record, tokenizer: PreTrainedTokenizerBase) -> str:
    """How a record becomes text on this base, in a line, and the text itself. Raises UserError where it cannot."""
    _, record = next(record.parts())
    if record.text is not None:
        return f"plain text, ended by {tokenizer.eos_token}:\n{neutral_of(tokenizer)(record.text)}"
    template = template_of(tokenizer)
    if template is not None:
        return f"chat template, answers end with {template.end_of_turn}:\n{template.render(record).text}"
    pairs = plain_pairs(record, neutral_of(tokenizer))
    shown = "".join(asked + ("" if answer is None else f"{answer}{tokenizer.eos_token}") for asked, answer, _ in pairs)
    return f"plain prompt (the base has no chat template), answers end with {tokenizer.eos_token}:\n{shown}"
