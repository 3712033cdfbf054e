"""What a base makes of records: lengths, cuts, loss-bearing tokens, and what in them it may stumble over."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transformers import PreTrainedTokenizerBase

from fettle.data.chat import template_of
from fettle.data.encode import Counts, OnLong, encode
from fettle.data.record import Record


class Measure:
    """A base's tokenizer, the longest example in tokens, and what happens to longer records."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_length: int, on_long: OnLong = "cut") -> None:
        self.tokenizer, self.max_length, self.on_long = tokenizer, max_length, on_long
        longest_first = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        self._special = re.compile("|".join(re.escape(token) for token in longest_first) or r"(?!)")

    def count(self, records: Iterable[Record]) -> Counts:
        """What becomes of the records when they are encoded. Raises UserError as `encode` does."""
        counts = Counts()
        for _ in encode(records, self.tokenizer, max_length=self.max_length, on_long=self.on_long, counts=counts):
            pass
        return counts

    def special_in(self, record: Record) -> str | None:
        """A special token that the record's own text would be read as, if there is one."""
        for text in (record.text or "", *(turn.content for turn in record.conversation)):
            if found := self._special.search(text):
                return found.group()
        return None

    def length_warnings(self, counts: Counts) -> list[str]:
        """What is lost to `max_length`."""
        of = f"of {counts.records} records"
        lost = {
            f"{counts.cut} {of} are longer than {self.max_length} tokens and are cut": counts.cut,
            f"{counts.skipped_long} {of} are longer than {self.max_length} tokens and are skipped": counts.skipped_long,
            f"{counts.skipped_empty} {of} are skipped: nothing to learn within {self.max_length} tokens": (
                counts.skipped_empty
            ),
        }
        return [warning for warning, count in lost.items() if count]

    def template_warnings(self) -> list[str]:
        """What is wrong with the base's chat template, if it has one."""
        template = template_of(self.tokenizer)
        if template is None or template.end_of_turn is not None:
            return []
        return ["the base's chat template ends answers with no special token: the model cannot learn to stop"]
