"""Which example comes next: a deterministic shuffle of each source, interleaved by the sources' shares of tokens."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Draw:
    """One example of the mix: the source's position in the stage's list, and the example's position in the source."""

    source: int
    example: int


def draws(lengths: Sequence[Sequence[int]], weights: Sequence[float], seed: int) -> Iterator[Draw]:
    """Examples for ever, the same ones for the same arguments.

    lengths: tokens of each example, by source. Each source is shuffled anew on each of its passes; the next example
    comes from the source that is furthest behind its share of the tokens drawn so far. Every source has an example.
    """
    streams = [_passes(len(source), seed, number) for number, source in enumerate(lengths)]
    drawn = [0.0] * len(lengths)
    while True:
        number = min(range(len(lengths)), key=lambda i: (drawn[i] / weights[i], i))
        example = next(streams[number])
        drawn[number] += lengths[number][example]
        yield Draw(number, example)


def _passes(count: int, seed: int, source: int) -> Iterator[int]:
    turn = 0
    while True:
        order = list(range(count))
        random.Random(f"{seed}/{source}/{turn}").shuffle(order)
        yield from order
        turn += 1


def steps_of(
    lengths: Sequence[Sequence[int]],
    weights: Sequence[float],
    seed: int,
    *,
    tokens: int | None,
    sequences: int | None,
    epochs: float | None,
    max_steps: int | None,
) -> list[list[Draw]]:
    """What each optimizer step learns from: its examples, taken until they hold `tokens`, or `sequences` of them.

    Ends after `max_steps`, or where the first source has been passed over `epochs` times (1 where neither is given).
    A step's examples depend neither on packing nor on the number of workers.
    """
    budget = None if max_steps is not None else max(1, round((epochs or 1.0) * len(lengths[0])))
    steps: list[list[Draw]] = []
    step: list[Draw] = []
    held = 0
    for draw in draws(lengths, weights, seed):
        size = lengths[draw.source][draw.example]
        full = len(step) >= sequences if sequences is not None else held + size > (tokens or 0)
        if step and full:
            steps.append(step)
            step, held = [], 0
            if max_steps is not None and len(steps) >= max_steps:
                return steps
        if budget is not None and draw.source == 0:
            if budget == 0:
                break
            budget -= 1
        step.append(draw)
        held += size
    if step:
        steps.append(step)
    return steps
