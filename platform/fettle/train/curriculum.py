"""What a stage learns from, step by step, the same on every worker, and what it keeps out to measure itself on."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from fettle.data.batches import Encoded
from fettle.data.mix import Cursor, Mix, Records, Step, steps_of
from fettle.data.rows import complain
from fettle.data.skipped import SKIPPED, SkippedRecords, as_row
from fettle.data.stream import Stream
from fettle.data.tokens import (
    DEFAULT_HELDOUT,
    TokenExample,
    TokenSet,
    choose_heldout,
    content_hash,
    positions_without,
)
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.models.family import family_of
from fettle.recipe.stages import BatchSpec
from fettle.train.job import StageJob

CURSOR = "cursor.json"
_REMEMBERED = 4


@dataclass(frozen=True)
class Curriculum:
    """records: of the first source, with which the last step ends; None where `num_steps` alone says when."""

    sources: Sequence[Records[Encoded]]
    weights: tuple[float, ...]
    seed: int
    batch: BatchSpec
    records: int | None
    num_steps: int
    heldout: Sequence[Encoded]

    def steps(self, cursor: Cursor | None = None) -> Iterator[Step[Encoded]]:
        """Every step from the cursor on; more than `num_steps` of them where that was asked for."""
        mix = Mix(self.sources, self.weights, self.seed, _tokens_of, cursor)
        return steps_of(mix, tokens=self.batch.tokens, sequences=self.batch.sequences, records=self.records)


def curriculum(job: StageJob, rank: int = 0) -> Curriculum:
    """What the stage learns from; the same on every worker, of which the first writes down what is left out."""
    spec = job.spec
    if job.streams:
        heldout: Sequence[Encoded] = TokenSet(*job.heldout)
        assert spec.max_steps is not None
        return _curriculum(job, _streams(job, heldout, rank), heldout, None, spec.max_steps)
    sets = [TokenSet(*folders) for folders in job.tokens]
    kept = [np.arange(len(tokens)) for tokens in sets]
    if job.heldout:
        heldout = TokenSet(*job.heldout)
    else:
        kept[0], out = choose_heldout(sets[0], spec.heldout or DEFAULT_HELDOUT)
        heldout = [sets[0][position] for position in out]
        kept[1:] = [positions_without(tokens, heldout) for tokens in sets[1:]]
    for (path, _), positions in zip(job.data, kept, strict=False):
        if not len(positions):
            raise UserError(f"stages.{job.name}: every example of {path} is held out of training")
    sources = [_Kept(tokens, positions) for tokens, positions in zip(sets, kept, strict=True)]
    if spec.max_steps is not None:
        return _curriculum(job, sources, heldout, None, spec.max_steps)
    records = max(1, round((spec.epochs or 1.0) * len(kept[0])))
    lengths = [_Lengths(tokens.lengths()[positions]) for tokens, positions in zip(sets, kept, strict=True)]
    mix = Mix(lengths, job.weights, job.seed, int)
    plan = steps_of(mix, tokens=spec.batch.tokens, sequences=spec.batch.sequences, records=records)
    return _curriculum(job, sources, heldout, records, sum(1 for _ in plan))


def _curriculum(
    job: StageJob,
    sources: Sequence[Records[Encoded]],
    heldout: Sequence[Encoded],
    records: int | None,
    num_steps: int,
) -> Curriculum:
    return Curriculum(sources, job.weights, job.seed, job.spec.batch, records, num_steps, heldout)


def _streams(job: StageJob, heldout: Sequence[Encoded], rank: int) -> list[Stream]:
    """The sources, encoded while training, without what is held out of them."""
    is_share = job.spec.heldout is None or job.spec.heldout.data is None
    without = {content_hash(example) for example in heldout} if is_share else set()
    tokenizer, is_halved = load_tokenizer(job.base, job.chat_template), family_of(job.base) == "seq2seq"
    skipped = SkippedRecords(job.folder / SKIPPED)

    def skip(error: UserError) -> None:
        if rank == 0:
            skipped.add(as_row(error))

    return [
        Stream(
            source,
            tokenizer,
            max_length=job.max_length,
            on_long=job.spec.on_long,
            on_error=complain if source.spec.on_bad_record == "error" else skip,
            without=without,
            is_halved=is_halved,
        )
        for source in job.streams
    ]


class StepsUnderway:
    """The examples of each step of a stage, from the one after `start` on; what the last few were may be asked for."""

    def __init__(self, lessons: Curriculum, start: int = 0, cursor: Cursor | None = None) -> None:
        self.lessons, self.start, self.cursor = lessons, start, cursor
        self._last: dict[int, Step[Encoded]] = {}

    @property
    def heldout(self) -> Sequence[Encoded]:
        """What is measured on."""
        return self.lessons.heldout

    @property
    def reward(self) -> None:
        """Nothing is rewarded."""
        return None

    def __len__(self) -> int:
        """Steps of the whole stage."""
        return self.lessons.num_steps

    def __iter__(self) -> Iterator[list[Encoded]]:
        steps = islice(self.lessons.steps(self.cursor), self.lessons.num_steps - self.start)
        for number, step in enumerate(steps, start=self.start + 1):
            self._last[number] = step
            self._last.pop(number - _REMEMBERED, None)
            yield step.examples

    def __getitem__(self, number: int) -> list[Encoded]:
        """The examples of a step that was just handed out; the first is 1."""
        return self._last[number].examples

    def write(self, checkpoint: Path, number: int) -> None:
        """Writes into the checkpoint of a step, which is not complete yet, where the stage's data goes on after it."""
        told = json.dumps(asdict(self._last[number].after))
        (checkpoint / CURSOR).write_text(told, encoding="utf-8")


def read_cursor(checkpoint: Path) -> Cursor:
    """Where the stage's data goes on after a checkpoint."""
    told = json.loads((checkpoint / CURSOR).read_text(encoding="utf-8"))
    return Cursor(**{key: tuple(numbers) for key, numbers in told.items()})


@dataclass(frozen=True)
class _Kept:
    """Some examples of a set."""

    tokens: TokenSet
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def take(self, positions: np.ndarray) -> list[list[TokenExample]]:
        return [[self.tokens[place]] for place in self.positions[positions].tolist()]


@dataclass(frozen=True)
class _Lengths:
    """Examples of which only their number of tokens matters, to count the steps of a stage."""

    tokens: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, positions: np.ndarray) -> list[list[int]]:
        return [[length] for length in self.tokens[positions].tolist()]


def _tokens_of(example: Encoded) -> int:
    return len(example.input_ids)
