"""What a step learns from, worked out: over all workers, of each, and of each micro-batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.rl import RlStage
from fettle.recipe.stages import LearningStage, TrainingStage


class Counted(Protocol):
    """What is known of a stage's data."""

    @property
    def examples(self) -> float: ...

    @property
    def answers(self) -> float: ...

    @property
    def mean(self) -> float: ...

    @property
    def longest(self) -> int: ...


@dataclass(frozen=True)
class Arithmetic:
    """records, tokens: of a step, over all workers. length: tokens of a text in the mean. rows, row_tokens: of one
    worker's micro-batch, of which there are `accumulate` a step. steps: of the stage, None where nobody knows."""

    records: float
    tokens: float
    length: float
    workers: int
    accumulate: int
    rows: int
    row_tokens: int
    steps: float | None

    def __str__(self) -> str:
        """In a line."""
        whole = f"{self.records:,.0f} records of about {self.length:,.0f} tokens a step"
        split = f"{self.workers} worker{'s' if self.workers > 1 else ''} × {self.accumulate} micro-batch"
        split += f"{'es' if self.accumulate > 1 else ''} of {self.rows} row{'s' if self.rows > 1 else ''}"
        return f"{whole} = {split} of {self.row_tokens:,} tokens"


def arithmetic(
    stage: LearningStage, cluster: ClusterSpec, amount: Counted | None, max_length: int, *, packing: bool
) -> Arithmetic:
    """Of a stage. amount: of its data; where it is not known, every text is as long as it may be."""
    workers, accumulate = cluster.workers, stage.batch.accumulate
    answers = amount.answers if amount is not None else (2.0 if stage.kind in ("preference", "reward") else 1.0)
    mean = amount.mean if amount is not None else float(max_length)
    longest = amount.longest if amount is not None else max_length
    if isinstance(stage, RlStage):
        answers, mean, longest = 1.0, float(max_length), max_length
        wanted = 64.0 + stage.rollout.max_new_tokens * stage.turns  # a prompt of some length, and the answers
        mean = min(mean, wanted)
        longest = int(mean)
    record = mean * answers
    if stage.batch.sequences is not None:
        records = float(stage.batch.sequences)
        tokens = records * record
    else:
        assert stage.batch.tokens is not None
        # Records are taken until they hold so many tokens: half a record more in the mean.
        tokens = stage.batch.tokens + record / 2
        records = tokens / record
    each = tokens / workers / accumulate
    rows, width = _rows(each, records * answers / workers / accumulate, longest, max_length, packing=packing)
    return Arithmetic(records, tokens, mean, workers, accumulate, rows, width, _steps(stage, amount, records, answers))


def _rows(tokens: float, texts: float, longest: int, max_length: int, *, packing: bool) -> tuple[int, int]:
    """(rows, their tokens) of a micro-batch: padded to the longest, or packed into the shortest rows that are nearly
    full, which are about as long as the longest text (data/batches.py)."""
    if not packing:
        return max(1, math.ceil(texts)), longest
    width = min(max(longest, 1), max_length)
    rows = max(1, math.floor(tokens / width))
    return rows, max(2, math.ceil(max(tokens, longest) / rows))


def _steps(stage: LearningStage, amount: Counted | None, records: float, answers: float) -> float | None:
    if isinstance(stage, RlStage):
        return float(stage.max_steps)
    assert isinstance(stage, TrainingStage)
    if stage.max_steps is not None:
        return float(stage.max_steps)
    if amount is None:
        return None
    return max(1.0, (stage.epochs or 1.0) * amount.examples / answers / records)
