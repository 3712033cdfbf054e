"""A record as the text a model sees, with the stretches that bear loss: through the chat template, or plain."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from fettle.data.record import Message, Record
from fettle.errors import UserError

_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_ANSWER = "An answer."


@dataclass(frozen=True)
class Rendered:
    """spans: (first, one past last) characters of `text` that bear loss, in order."""

    text: str
    spans: tuple[tuple[int, int], ...]


class ChatTemplate:
    """A tokenizer's chat template, and which characters of its renderings bear loss: the assistant's turns, from the
    first character that serving would leave to the model, up to the end-of-turn token and with it.

    Templates that mark the assistant's words (`{% generation %}`) are taken at their word, save that the end-of-turn
    token always bears loss and what follows it never does. For others the turns are found by rendering the
    conversation up to each of them; a template whose rendering of a turn depends on later ones is refused.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises UserError where the template cannot render a question and an answer."""
        self._template: str = tokenizer.get_chat_template()
        self._specials: dict[str, Any] = tokenizer.special_tokens_map
        self._name = str(tokenizer.name_or_path)
        self._has_marks = bool(_MARKS.search(self._template))
        self.end_of_turn = self._find_end_of_turn({*tokenizer.get_added_vocab(), *tokenizer.all_special_tokens})

    end_of_turn: str | None
    """The special token(s) after an answer; None where the template has none, so that a model cannot learn to stop."""

    def render(self, record: Record) -> Rendered:
        """The record's conversation. Raises UserError (file, line) where the template refuses it or hides its turns."""
        turns = record.conversation
        text, marks = self._render(turns, record)
        answers = [turn for turn in turns if turn.role == "assistant"]
        if len(marks) == len(answers):
            learned = [mark for mark, answer in zip(marks, answers, strict=True) if answer.bears_loss]
        else:
            learned = [
                self._stretch(record, text, place)
                for place, turn in enumerate(turns)
                if turn.role == "assistant" and turn.bears_loss
            ]
        return Rendered(text, tuple((start, self._close(text, start, end)) for start, end in learned))

    def _stretch(self, record: Record, text: str, place: int) -> tuple[int, int]:
        """Where the turn at `place` lies in `text`: from the end of the generation prompt to where the next begins."""
        turns = record.conversation
        opening, _ = self._render(turns[:place], record, add_generation_prompt=True)
        if not text.startswith(opening):
            raise self._broken(record, place, f"what serving puts before the answer, `{opening[-40:]}`, is not there")
        whole = text if place == len(turns) - 1 else self._render(turns[: place + 1], record)[0]
        if text.startswith(whole) and whole.startswith(opening):
            return len(opening), len(whole)
        # Qwen 3 writes an empty <think> block into the last answer only: such a turn is found by its own words.
        words = turns[place].content.strip()
        found = text.find(words, len(opening))
        if found < 0 or (end := self._end_after(text, found + len(words))) is None:
            raise self._broken(record, place, "its rendering depends on later turns")
        return len(opening), end

    def _close(self, text: str, start: int, end: int) -> int:
        """The end of a turn's stretch: right after its end-of-turn token, which a template's marks may leave out."""
        if self.end_of_turn is None:
            return end
        stretch = text[start:end].rstrip()
        if stretch.endswith(self.end_of_turn):
            return start + len(stretch)
        return self._end_after(text, end) or end

    def _end_after(self, text: str, place: int) -> int | None:
        """One past the end-of-turn token that follows `place`, or None where something else follows."""
        while place < len(text) and text[place].isspace():
            place += 1
        if self.end_of_turn is None or not text.startswith(self.end_of_turn, place):
            return None
        return place + len(self.end_of_turn)

    def _find_end_of_turn(self, tokens: set[str]) -> str | None:
        exchange = (Message("user", "A question?"), Message("assistant", _ANSWER, bears_loss=True))
        probe = Record(Path(self._name), 1, messages=exchange)
        tail = self._render(probe.conversation, probe)[0].rpartition(_ANSWER)[2]
        ends = [tail.rfind(token) + len(token) for token in tokens if token and token in tail]
        return tail[: max(ends)].strip() if ends else None

    def _render(
        self, turns: Sequence[Message], record: Record, *, add_generation_prompt: bool = False
    ) -> tuple[str, list[tuple[int, int]]]:
        """(text, the template's own marks) of some turns."""
        chat = [{"role": turn.role, "content": turn.content} for turn in turns]
        try:
            found: Any = render_jinja_template(  # annotated as text, but gives (texts, marks)
                conversations=[chat],
                chat_template=self._template,
                add_generation_prompt=add_generation_prompt,
                return_assistant_tokens_mask=self._has_marks and not add_generation_prompt,
                **self._specials,
            )
        except TemplateError as error:
            raise UserError(
                f"the base's chat template refuses these messages: {error}",
                file=record.file,
                line=record.line,
                fix="change the record, or use a base with another template",
            ) from None
        texts, marks = found
        return texts[0], [(start, end) for start, end in marks[0]] if marks else []

    def _broken(self, record: Record, place: int, why: str) -> UserError:
        return UserError(
            f"the base's chat template does not show which tokens are the assistant's (turn {place + 1}): {why}",
            file=record.file,
            line=record.line,
            expected="a template that renders turn after turn, or marks answers with {% generation %}",
        )


def template_of(tokenizer: PreTrainedTokenizerBase) -> ChatTemplate | None:
    """The tokenizer's chat template, or None where it has none."""
    return ChatTemplate(tokenizer) if tokenizer.chat_template else None


def rendering_of(record: Record, tokenizer: PreTrainedTokenizerBase) -> str:
    """How a record becomes text on this base, in a line, and the text itself. Raises UserError where it cannot."""
    if record.text is not None:
        return f"plain text, ended by {tokenizer.eos_token}:\n{record.text}"
    template = template_of(tokenizer)
    if template is not None:
        return f"chat template, answers end with {template.end_of_turn}:\n{template.render(record).text}"
    pairs = plain_pairs(record)
    shown = "".join(f"{asked}{answer}{tokenizer.eos_token}" for asked, answer in pairs)
    return f"plain prompt (the base has no chat template), answers end with {tokenizer.eos_token}:\n{shown}"


def plain_pairs(record: Record) -> list[tuple[str, str]]:
    """(prompt, answer) pairs as bare text, for a base without chat template. Messages have none: UserError."""
    if record.prompt is None or record.completion is None:
        raise UserError(
            "messages need a chat template, and this base has none",
            file=record.file,
            line=record.line,
            field="messages",
            fix="use a base with a chat template, or bring prompt and completion as text",
        )
    pieces = (*record.prompt.plain, record.completion)
    return list(zip(pieces[::2], pieces[1::2], strict=True))
