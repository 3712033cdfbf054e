"""The loss of language models on held-out records, worked out once for the same model and the same tokens."""

from __future__ import annotations

import gc
import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from fettle.artifact import library_versions, replace_text
from fettle.data.encode import Counts, Example, encode
from fettle.data.record import Record
from fettle.data.rows import complaint_of
from fettle.data.sources import OpenSource, read_source
from fettle.errors import UserError
from fettle.models.adapter_folder import settings_in
from fettle.models.base import digest_of, load_tokenizer, positions_of
from fettle.models.family import family_of
from fettle.pipeline.evaluated import LONGEST, Measurement, check_speaks
from fettle.pipeline.origin import Origin
from fettle.pipeline.planned import hash_of
from fettle.recipe.evaluate import LossSpec, RetentionSpec

_MEASURED = ("text", "messages", "prompt_completion")


@dataclass(frozen=True)
class Probe:
    """Records as a model's tokens. data: what the recipe calls them; pad_id: a token that fills rows."""

    data: str
    examples: tuple[Example, ...]
    counts: Counts
    max_length: int
    pad_id: int

    @cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 of the tokens, of which of them bear loss, and of where a record ends."""
        found = hashlib.sha256()
        for example in self.examples:
            found.update(f"{len(example.input_ids)} {example.part} ".encode())
            found.update(np.ascontiguousarray(example.input_ids, dtype=np.int32).data)
            found.update(np.packbits(example.loss_mask).data)
        return found.hexdigest()

    def loss(self, model: Any) -> float:
        """Of a model in evaluation, in nats a token."""
        from fettle.evaluate.perplexity import example_losses

        tokens = sum(int(np.count_nonzero(one.loss_mask)) for one in self.examples)
        return float(example_losses(model, self.examples, pad_id=self.pad_id).sum()) / tokens

    def records(self) -> list[list[int]]:
        """The positions of each record's examples."""
        places = groupby(range(len(self.examples)), key=lambda place: _place(self.examples[place]))
        return [list(one) for _, one in places]


@dataclass(frozen=True)
class Losses:
    """What a model loses on a probe's records, in float64 nats summed over each one's tokens, of which there are so
    many. Of a probe of one record, a long text, they are its parts, or there would be nothing to resample. seconds:
    what it took."""

    sums: np.ndarray
    tokens: np.ndarray
    seconds: float


def probe(
    source: OpenSource, spec: LossSpec | RetentionSpec, root: Path, template: str | None, room: int, **where: Any
) -> Probe:
    """The records of a source, up to `spec.limit`, encoded as a stage over the model in `root` encodes its own.

    room: tokens of the longest record there is room for. where: file, line, field (of a recipe) of the UserError that
    is raised where that is less than max_length, or where there is nothing to measure; of a record that cannot be
    measured the error has its own file and line.
    """
    if spec.max_length is not None and spec.max_length > room:
        raise UserError(f"max_length {spec.max_length} is above the {room} positions of {root.name}", **where)
    is_halved, tokenizer = family_of(root) == "seq2seq", load_tokenizer(root, template)
    if (
        is_halved
        and json.loads((root / "config.json").read_text(encoding="utf-8")).get("decoder_start_token_id") is None
    ):
        raise UserError(f"{root.name} does not say which token its decoder begins with", **where)
    records = islice(read_source(source, complaint_of(source.spec)), spec.limit)
    max_length, counts = spec.max_length or min(room, LONGEST), Counts()
    found = encode(
        (_checked(record, is_halved) for record in records),
        tokenizer,
        max_length=max_length,
        counts=counts,
        must_learn=False,
        is_halved=is_halved,
    )
    examples = tuple(found)
    if not counts.loss_tokens:
        raise UserError(f"no token bears loss in any of {counts.records} records: there is nothing to measure", **where)
    return Probe(spec.data.path, examples, counts, max_length, tokenizer.pad_token_id or 0)


def room_of(origin: Origin) -> int:
    """Positions of a model that are left beside the tokens its adapter has learned."""
    if origin.adapter is None:
        return positions_of(origin.root)
    spec = origin.adapter_spec
    return positions_of(origin.root) - int(
        (spec.tokens if spec else settings_in(origin.adapter, ()).get("tokens")) or 0
    )


def base_of(origin: Origin) -> Origin:
    """The untuned model under a stage's result, which speaks the same chat template."""
    return Origin(origin.root, origin.root, digest_of(origin.root), chat_template=origin.chat_template)


def losses(origin: Origin, asked: Probe) -> Losses:
    """What the model loses on the probe's records: in float32 on a CPU; on a GPU in the type its weights lie in."""
    # Here, because the driver of a run that is not evaluated needs none of them.
    from fettle.evaluate.perplexity import example_losses
    from fettle.models.generate import load_speaker

    began = time.monotonic()
    model = load_speaker(origin.base, origin.adapter)
    each = example_losses(model, asked.examples, pad_id=asked.pad_id)
    del model
    gc.collect()  # modules hold each other; the next stage's weights would lie beside these
    tokens = np.array([np.count_nonzero(one.loss_mask) for one in asked.examples])
    records = asked.records()
    if len(records) > 1:
        each, tokens = (np.array([values[places].sum() for places in records]) for values in (each, tokens))
    return Losses(each, tokens, round(time.monotonic() - began, 1))


def kept_losses(
    folder: Path, origin: Origin, asked: Probe, name: str, say: Callable[[str], None] = lambda _: None
) -> Losses:
    """The same, worked out once for the same model and the same tokens; below `folder` lies what each record came to,
    under `name` where it was not there before."""
    import torch

    told = {
        "kind": "loss",
        "model": [origin.identity, origin.chat_template],
        "asked": asked.digest,
        "on": "gpu" if torch.cuda.is_available() else "cpu",  # where it is computed in another precision
        "versions": library_versions(),
    }
    key = hash_of(told)[:12]
    for file in folder.glob(f"*-{key}.json"):
        rows = [json.loads(line) for line in file.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
        sums, tokens = (np.array([row[name] for row in rows]) for name in ("nats", "tokens"))
        return Losses(sums, tokens, json.loads(file.read_text(encoding="utf-8"))["seconds"])
    say(f"measuring {name} on {asked.data}: {asked.counts.records:,} records")
    found = losses(origin, asked)
    lines = _rows(asked, found)
    folder.mkdir(exist_ok=True)
    file = folder / f"{name}-{key}.json"
    replace_text(file.with_suffix(".jsonl"), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines))
    replace_text(file, json.dumps(asdict(measurement(found, asked, name)), indent=2) + "\n")
    return found


def measurement(found: Losses, asked: Probe, name: str, seed: int = 0) -> Measurement:
    """What a model's losses are worth: loss and perplexity, weighted by the tokens, with their intervals."""
    from fettle.evaluate.intervals import of_ratio

    loss = of_ratio(found.sums, found.tokens, seed)
    # The exponential keeps the order, so the interval's ends are those of the perplexity's own.
    perplexity = replace(loss, mean=_exp(loss.mean), low=_exp(loss.low), high=_exp(loss.high))
    return Measurement(
        model=name,
        data=asked.data,
        records=asked.counts.records - asked.counts.skipped,
        tokens=int(found.tokens.sum()),
        records_cut=asked.counts.cut,
        records_empty=asked.counts.skipped,
        max_length=asked.max_length,
        seconds=found.seconds,
        scores={"loss": asdict(loss), "perplexity": asdict(perplexity)},
        how={"loss": "nats per loss-bearing token", "interval": f"95 %, percentile bootstrap over {_resampled(asked)}"},
    )


def measure(
    origin: Origin, source: OpenSource, spec: LossSpec, *, name: str, **where: Any
) -> tuple[Measurement, list[dict[str, Any]]]:
    """(what a model loses on a source's records, each record's place, nats and tokens). Raises UserError where the
    model writes no text, or the records are none to measure on."""
    check_speaks(origin, **where)
    asked = probe(source, spec, origin.root, origin.chat_template, room_of(origin), **where)
    found = losses(origin, asked)
    return measurement(found, asked, name), _rows(asked, found)


def _rows(asked: Probe, found: Losses) -> list[dict[str, Any]]:
    firsts = [places[0] for places in asked.records()]
    examples = [asked.examples[place] for place in (firsts if len(firsts) > 1 else range(len(asked.examples)))]
    return [
        {"file": str(one.file), "line": one.line, "nats": float(nats), "tokens": int(tokens)}
        for one, nats, tokens in zip(examples, found.sums, found.tokens, strict=True)
    ]


def _resampled(asked: Probe) -> str:
    return "the records" if len(asked.records()) > 1 else "the parts of the only record"


def _exp(value: float) -> float:
    return math.exp(min(value, 700))  # larger ones are no float


def _place(example: Example) -> tuple[str, int]:
    return str(example.file), example.line


def _checked(record: Record, is_halved: bool) -> Record:
    """The record. Raises UserError where it is none that a model's loss could be measured on."""
    expected = "raw text, or a question with its answer: prompt and completion, or messages"
    if record.kind not in _MEASURED:
        got = f"a record of kind {record.kind} has no tokens of its own to be measured on"
        raise UserError(got, file=record.file, line=record.line, expected=expected)
    if record.kind == "text" and is_halved:
        raise UserError(
            "raw text has no question that an encoder-decoder model could read, and no answer for it to write",
            file=record.file,
            line=record.line,
            expected="a question with its answer: prompt and completion, or messages",
        )
    return record
