"""Whether an engine computes what was trained: log-probabilities of the same tokens, greedy answers, template and
tokenizer; and where it does not, the likely cause.

The default bounds, in nats, leave room over what was measured (2 cores, 2026-11; tiny with two adapters, base-8m): 1e-5
where both compute in float32, 0.03 for an adapter merged into bfloat16 weights, 0.11 for an engine in bfloat16, 0.37
for weights of 8 bits and 0.08 for 4. On GPUs none of it was measured.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fettle.engine.sampling import Read

Numbers = Literal["float32", "rounded", "16 bits", "quantised"]
LARGEST: dict[Numbers, float] = {"float32": 1e-3, "rounded": 0.2, "16 bits": 0.5, "quantised": 1.0}
"""Nats that a log-probability may differ by: where all is float32; where weights were rounded to 16 bits and then
computed with in float32; where either side computes in 16 bits; where the weights have fewer."""
LEAST_AGREEMENT = 0.95
_SHOWN = 12


@dataclass(frozen=True)
class Reference:
    """What transformers and PEFT come to. texts: prompts with their greedy answers, token ids; begins: where in each
    the answer begins; logprobs: of each text's tokens but the first, in nats; dtype: in which they were computed."""

    texts: tuple[tuple[int, ...], ...]
    begins: tuple[int, ...]
    logprobs: tuple[tuple[float, ...], ...]
    dtype: str


@dataclass(frozen=True)
class Way:
    """One way to run the model, beside transformers. dtype: in which the engine computes. largest, mean: differences
    of a log-probability over all tokens, in nats; place: prompt and token of the largest, counted from 1. agreement:
    share of the answers' tokens that are the engine's likeliest ones too; answers_alike: of all answers, those that the
    engine gives by itself. most, least: the bounds of `largest` and `agreement`."""

    name: str
    numbers: Numbers
    dtype: str
    largest: float
    mean: float
    place: tuple[int, int]
    agreement: float
    answers_alike: int
    most: float
    least: float

    @property
    def is_met(self) -> bool:
        """Whether it is within its bounds; what is no number never is."""
        return self.largest <= self.most and self.agreement >= self.least

    def __str__(self) -> str:
        nats = f"log-probabilities differ by {self.largest:.2g} nats, at most {self.most:g} wanted"
        return f"{self.name}: {nats}; {self.agreement:.1%} of the tokens agree, at least {self.least:.0%} wanted"


@dataclass(frozen=True)
class Speech:
    """Template (None where there is none) and tokenizer as hashes, and how many tokens the tokenizer has."""

    template: str | None
    tokenizer: str
    tokens: int


@dataclass(frozen=True)
class Facts:
    """What the files tell. trained, served: how prompts become tokens in training and at an endpoint; prompts_alike: of
    all prompts those that become the same ones. rows: of the embeddings. changed: what is no longer as it was when the
    artifact was made. rank: of an adapter, and the largest that the engine is built for. architecture, stored: of the
    weights, and the type they lie in."""

    trained: Speech
    served: Speech
    prompts: int
    prompts_alike: int
    rows: int
    architecture: str
    stored: str
    changed: tuple[str, ...] = ()
    rank: int | None = None
    engine_rank: int | None = None


@dataclass(frozen=True)
class Parity:
    """A result's parity. data: where the prompts are from. tokens: whose log-probabilities were compared; dtype: in
    which transformers computed them. ways: none where the files alone show that it would not be served as it was
    trained, or where the engine refuses it. causes: the likely ones, the likeliest first; none where all is well."""

    artifact: str
    data: str
    tokens: int
    dtype: str
    facts: Facts
    ways: tuple[Way, ...]
    causes: tuple[str, ...]
    seconds: float

    @property
    def is_met(self) -> bool:
        """Whether it may be published."""
        return not self.causes

    @property
    def why_not(self) -> str:
        """What differs, and why, in one line."""
        missed = [str(way) for way in self.ways if not way.is_met]
        told = "; ".join(missed) or "what would be served is not what was trained"
        return f"{told}; likely cause: {'; or '.join(self.causes)}"

    def lines(self) -> list[str]:
        """For the terminal: one an engine, then template and tokenizer."""
        count, facts = self.facts.prompts, self.facts
        found = []
        for way in self.ways:
            nats = f"{way.largest:.1e} nats of {way.most:g} over {self.tokens:,} tokens"
            alike = f"{way.agreement:.1%} of the answers' tokens agree, {way.answers_alike} of {count} answers alike"
            found.append(f"parity    {way.name}, {way.dtype}: {nats}; {alike}")
        for name in ("template", "tokenizer"):
            trained, served = (getattr(one, name) or "none" for one in (facts.trained, facts.served))
            same = f"{trained} in training and served"
            found.append(f"{name:<9} {same if trained == served else f'{trained} in training, {served} served'}")
        return found


def compare(
    reference: Reference,
    name: str,
    numbers: Numbers,
    dtype: str,
    read: Sequence[Read],
    answers: Sequence[Sequence[int]],
) -> Way:
    """An engine against transformers, over the same token ids, within the default bounds.

    read: of the reference's texts. answers: the engine's own greedy ones, token ids.
    """
    pairs = zip(read, reference.logprobs, strict=True)
    differences = [np.abs(np.subtract(mine.logprobs, theirs)) for mine, theirs in pairs]
    each = np.concatenate(differences)
    worst = int(np.argmax(np.where(np.isnan(each), np.inf, each)))
    prompt = int(np.searchsorted(np.cumsum([len(one) for one in differences]), worst, side="right"))
    told = zip(read, reference.begins, strict=True)
    of_answers = [is_likeliest for one, begin in told for is_likeliest in one.are_likeliest[begin - 1 :]]
    said = [text[begin:] for text, begin in zip(reference.texts, reference.begins, strict=True)]
    return Way(
        name=name,
        numbers=numbers,
        dtype=dtype,
        largest=float(each[worst]),
        mean=float(each.mean()),
        place=(prompt + 1, worst - sum(len(one) for one in differences[:prompt]) + 2),
        agreement=float(np.mean(of_answers)) if of_answers else 1.0,
        answers_alike=sum(tuple(mine) == theirs for mine, theirs in zip(answers, said, strict=True)),
        most=LARGEST[numbers],
        least=LEAST_AGREEMENT,
    )


def seen(facts: Facts) -> tuple[str, ...]:
    """What would be served otherwise than it was trained, as the files alone tell."""
    trained, served = facts.trained, facts.served
    found = list(facts.changed)
    if trained.template != served.template:
        found.append(
            f"the chat template: it was trained with {trained.template or 'none'} and would be served with"
            f" {served.template or 'none'}"
        )
    are_alike = facts.prompts_alike == facts.prompts and trained.tokens == served.tokens
    if (
        trained.tokenizer != served.tokenizer and not are_alike
    ):  # transformers may only spell it otherwise when it saves
        of = f" of {trained.tokens:,} tokens" if trained.tokens != served.tokens else ""
        with_ = f" of {served.tokens:,}" if trained.tokens != served.tokens else ""
        found.append(
            f"the tokenizer: it was trained with {trained.tokenizer}{of} and would be served with"
            f" {served.tokenizer}{with_}"
        )
    most = max(trained.tokens, served.tokens)
    if most > facts.rows:
        found.append(f"added tokens: the tokenizer has {most:,}, and the embeddings have {facts.rows:,} rows")
    if not are_alike and not found:
        found.append(f"the prompts: {facts.prompts - facts.prompts_alike} of {facts.prompts} become other tokens")
    return tuple(found)


def likely(facts: Facts, dtype: str, ways: Sequence[Way]) -> tuple[str, ...]:
    """Why engines are out of bounds, as far as it can be seen; none where none is. dtype: in which transformers
    computed."""
    missed = [way for way in ways if not way.is_met]
    found = []
    if other := next((way for way in missed if way.dtype != dtype), None):
        found.append(f"dtype: the engine computes in {other.dtype}, transformers in {dtype}")
    if any(way.numbers == "rounded" for way in missed):
        found.append(f"dtype: the weights are {facts.stored}, to which the update was rounded when it was merged")
    direct = [way for way in missed if way.numbers != "rounded"]
    if direct and facts.rank is not None and len(missed) < len(ways):
        rank = f"its rank is {facts.rank}, the engine built for {facts.engine_rank}"
        found.append(f"the adapter: the engine applies it otherwise than PEFT ({rank}); merged it is right")
    elif direct:
        found.append(f"the engine computes a {facts.architecture} otherwise than transformers")
    return tuple(found)


def short_hash(text: str) -> str:
    """Of a template or a tokenizer, as it is told."""
    return hashlib.sha256(text.encode()).hexdigest()[:_SHOWN]
