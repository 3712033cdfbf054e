"""Records that are to be answered: by whom, and as which tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np

from fettle.data.coder import Coder
from fettle.data.record import Record
from fettle.data.rows import read_rows
from fettle.data.sources import OpenSource
from fettle.errors import UserError, did_you_mean
from fettle.pipeline.answerers import Answerer, Answerers
from fettle.rl.prompts import asking

_RECORDS_AT_ONCE = 256


@dataclass(frozen=True)
class Unanswered:
    """A record of kind `prompt`, and who answers it. ids: int32 [P], as serving sends them."""

    record: Record
    answerer: Answerer
    ids: np.ndarray


def records_of(source: OpenSource, limit: int | None, **where: Any) -> list[Record]:
    """The source's first records as prompts, without answers. Raises UserError for one that asks nothing, or, with
    file, line and field from `where`, where there is none."""
    found = list(islice(asking(_as_prompts(source)), limit))
    for record in found:
        if record.prompt is not None and record.prompt.turns[-1].role == "assistant":
            got = "this prompt ends with an answer"
            raise UserError(got, file=record.file, line=record.line, expected="a question at the end, as in other rows")
    if not found:
        raise UserError("there is no record to answer", **(where or {"field": "DATA"}))
    return found


def unanswered(
    records: Sequence[Record], answerers: Answerers, default: Answerer, column: str | None = None
) -> list[Unanswered]:
    """In the order of the records, each rendered for its answerer as in training. column: of the records, with the name
    of who answers; where it has none, `default` does.

    Raises UserError (file, line) for a name that nobody answers to.
    """
    chosen = [default] * len(records) if column is None else _chosen(records, answerers, default, column)
    ids: dict[int, np.ndarray] = {}
    for answerer in {one.name: one for one in chosen}.values():
        mine = iter([place for place, one in enumerate(chosen) if one is answerer])
        coder = Coder(answerer.tokenizer)
        while places := list(islice(mine, _RECORDS_AT_ONCE)):
            coded = coder.code([records[place] for place in places])
            ids |= {place: found for place, (found, _) in zip(places, coded, strict=True)}
    return [Unanswered(record, chosen[place], ids[place]) for place, record in enumerate(records)]


def check_room(asked: Sequence[Unanswered], positions: int, max_new_tokens: int) -> None:
    """Raises UserError at the first prompt that is empty, or leaves no room for a whole answer, and says how many."""
    empty = next((one for one in asked if not len(one.ids)), None)
    if empty is not None:
        raise UserError("an empty prompt", file=empty.record.file, line=empty.record.line)
    room = positions - max_new_tokens
    long = [one for one in asked if len(one.ids) > room]
    if long:
        raise UserError(
            f"{len(long):,} of {len(asked):,} prompts leave no room for {max_new_tokens:,} new tokens within"
            f" {positions:,}; the first, with {len(long[0].ids):,} tokens, is here",
            file=long[0].record.file,
            line=long[0].record.line,
            expected=f"at most {max(0, room):,} tokens",
            fix="a smaller --max-new-tokens, or shorter prompts",
        )


def _as_prompts(source: OpenSource) -> OpenSource:
    """Messages of which the first row's end with a question are prompts: read for training they would want an answer to
    learn, and have no other columns."""
    spec = source.spec
    key = spec.columns.get("messages", "messages")
    row = next(read_rows(source.files[0], spec, lambda error: None), None)
    messages = row.columns.get(key) if row is not None else None
    last = messages[-1] if isinstance(messages, list) and messages else None
    if spec.format is not None or not isinstance(last, dict) or last.get("role") not in ("user", "tool"):
        return source
    columns = {ours: theirs for ours, theirs in spec.columns.items() if ours != "messages"} | {"prompt": key}
    return replace(source, spec=spec.model_copy(update={"format": "prompt", "columns": columns}))


def _chosen(records: Sequence[Record], answerers: Answerers, default: Answerer, column: str) -> list[Answerer]:
    if not any(column in record.columns for record in records):
        known = list(dict.fromkeys(key for record in records for key in record.columns))
        raise UserError(
            f"no record has a column '{column}'{did_you_mean(column, known)}",
            field="--model-column",
            expected=", ".join(known) or "prompts; of conversations other columns are not read",
        )
    found = []
    for record in records:
        where: dict[str, Any] = {"file": record.file, "line": record.line, "field": column}
        name = record.columns.get(column)
        if name is not None and not isinstance(name, str):
            raise UserError(f"{name!r} is no model's name", **where, expected="text")
        found.append(answerers.find(name, **where) if name else default)
    return found
