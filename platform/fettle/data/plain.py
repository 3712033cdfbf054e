"""Prompts and answers as bare text, for a base without a chat template."""

from __future__ import annotations

from fettle.data.neutral import Neutral
from fettle.data.record import Record
from fettle.errors import UserError


def plain_pairs(record: Record, neutral: Neutral) -> list[tuple[str, str | None, bool]]:
    """(prompt, answer, whether it bears loss) as bare text, for a base without chat template; a prompt alone has no
    answer. Messages have none of it: UserError."""
    if record.prompt is None or not record.prompt.plain:
        raise UserError(
            "messages need a chat template, and this base has none",
            file=record.file,
            line=record.line,
            field="messages",
            fix="name one in the recipe (`chat_template: chatml`), or bring prompt and completion as text",
        )
    asked = [neutral(text) for text in record.prompt.plain[::2]]
    given = [*record.prompt.plain[1::2], record.completion]
    learned = [turn.bears_loss for turn in record.conversation if turn.role == "assistant"] + [True]
    said = [None if text is None else neutral(text) for text in given]
    return list(zip(asked, said, learned, strict=False))
