"""What a base makes of records: lengths, cuts, loss-bearing tokens, and what in them it may stumble over."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedTokenizerBase

from fettle.data.chat import neutral_of, template_of
from fettle.data.encode import Counts, OnLong, encode
from fettle.data.record import Record
from fettle.data.report import Lengths


class Measure:
    """A base's tokenizer, the longest example in tokens, and what happens to longer records. is_halved: of
    `encode`."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, max_length: int, on_long: OnLong = "cut", *, is_halved: bool = False
    ) -> None:
        self.tokenizer, self.max_length, self.on_long, self.is_halved = tokenizer, max_length, on_long, is_halved
        self._template = template_of(tokenizer)
        self._neutral = neutral_of(tokenizer)
        self._has_tools = False

    def count(self, records: Iterable[Record]) -> tuple[Counts, Lengths | None]:
        """What becomes of the records when they are encoded, and how long they are. Raises UserError as `encode` does.

        Takes four bytes a record.
        """
        counts, lengths = Counts(), array("I")
        keys: dict[str, Any] = {"max_length": self.max_length, "on_long": self.on_long, "is_halved": self.is_halved}
        for _ in encode(records, self.tokenizer, **keys, counts=counts, lengths=lengths):
            pass
        return counts, Lengths.of(lengths)

    def special_in(self, record: Record) -> str | None:
        """A control token whose name stands in the record's own text, if there is one: it is taken as plain text."""
        self._has_tools = self._has_tools or bool(record.tools)
        for _, part in record.parts():
            for text in (part.text or "", *(turn.content for turn in part.conversation)):
                if found := self._neutral.name_in(text):
                    return found
        return None

    def left_out(self, record: Record) -> str | None:
        """The role of the first turn whose words the chat template does not show, if there is one."""
        if self._template is None or record.text is not None:
            return None
        found = (self._template.left_out(part) for _, part in record.parts())
        return next((role for role in found if role is not None), None)

    def template_warnings(self) -> list[str]:
        """What is wrong with the base's chat template, if it has one."""
        template = self._template
        told = []
        if template is not None and template.end_of_turn is None:
            told.append(
                f"the chat template ends answers with no special token of the base but `{template.ending}`: "
                "the model cannot learn to stop"
            )
        if template is not None and self._has_tools and not template.shows_schemas:
            told.append("the chat template leaves out the tools that records bring: the model never sees them")
        return told
