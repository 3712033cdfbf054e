"""The prompts of a stage: read, rendered as serving sends them, some held out; and which come in an iteration."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.data.asked import as_prompt
from fettle.data.coder import Coder
from fettle.data.record import Record
from fettle.data.rows import Complaint, complaint_of
from fettle.data.sources import OpenSource, read_source
from fettle.data.tokens import DEFAULT_HELDOUT, TokenExample, choose_heldout, content_hash
from fettle.errors import UserError
from fettle.recipe.data import HeldoutSpec

_RECORDS_AT_ONCE = 256


@dataclass(frozen=True)
class Prompt:
    """ids: int32 [P], as serving sends them."""

    record: Record
    ids: np.ndarray


@dataclass(frozen=True)
class Prompts:
    """Those learned from, and those held out."""

    trained: Sequence[Prompt]
    heldout: Sequence[Prompt]
    seed: int

    def of(self, iteration: int, count: int) -> list[Prompt]:
        """The prompts of an iteration: all of them come, shuffled anew on each pass, before one comes again."""
        found = []
        for place in range(iteration * count, (iteration + 1) * count):
            done, at = divmod(place, len(self.trained))
            found.append(self.trained[self._order(done)[at]])
        return found

    def _order(self, done: int) -> np.ndarray:
        return np.random.default_rng([self.seed, done]).permutation(len(self.trained))


def split_prompts(
    found: Sequence[Prompt], own: Sequence[Prompt] | None, spec: HeldoutSpec | None, seed: int
) -> Prompts:
    """The prompts that are learned from, and `own`, or a share of them by each one's hash, held out."""
    if own is not None:
        hashes = {content_hash(_example(one)) for one in own}
        return Prompts([one for one in found if content_hash(_example(one)) not in hashes], own, seed)
    kept, out = choose_heldout([_example(one) for one in found], spec or DEFAULT_HELDOUT)
    return Prompts([found[place] for place in kept], [found[place] for place in out], seed)


def prompts_in(source: OpenSource, tokenizer: PreTrainedTokenizerBase) -> Iterator[Prompt]:
    """A source's records as prompts; see `asking`."""
    coder, records = Coder(tokenizer), asking(source)
    while batch := list(islice(records, _RECORDS_AT_ONCE)):
        for record, (ids, _) in zip(batch, coder.code(batch), strict=True):
            yield Prompt(record, ids.astype(np.int32))


def asking(source: OpenSource) -> Iterator[Record]:
    """A source's records of kind `prompt`; a conversation, a prompt with its answer and a preference are one without
    answers.

    Raises UserError (file, line) for a record that is none, unless the source says to leave bad ones out.
    """
    complain = complaint_of(source.spec)
    for record in read_source(source, complain):
        if (prompt := _prompt_of(record, complain)) is not None:
            yield prompt


def draw_seed(seed: int, *place: int | str) -> int:
    """31 bits for what is drawn at one place of a run, such as (iteration, prompt)."""
    told = hashlib.blake2b(repr((seed, *place)).encode(), digest_size=4).digest()
    return int.from_bytes(told, "little") >> 1


def _prompt_of(record: Record, complain: Complaint) -> Record | None:
    if record.kind == "prompt":
        return record
    asked = as_prompt(record) if record.messages is not None or record.prompt is not None else None
    if asked is None or asked.prompt is None or not (asked.prompt.turns or asked.prompt.plain):
        complain(
            UserError(
                f"a record of kind {record.kind} that asks nothing",
                file=record.file,
                line=record.line,
                expected="a prompt, with or without answers to it, or messages",
            )
        )
        return None
    answer = {"answer": record.completion} if record.completion is not None else {}
    return Record(asked.file, asked.line, prompt=asked.prompt, tools=asked.tools, columns={**answer, **record.columns})


def _example(one: Prompt) -> TokenExample:
    return TokenExample(one.ids, np.zeros(len(one.ids), dtype=bool))
