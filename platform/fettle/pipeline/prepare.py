"""Each planned stage's data, checked and encoded on the driver, before any worker starts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from fettle.artifact import digest_file
from fettle.data.chat import template_of
from fettle.data.encode import Counts, Example, encode
from fettle.data.formats import read_file
from fettle.data.record import Record
from fettle.data.tokens import TokenSet, write_tokens
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.pipeline.graph import PlannedSource, PlannedStage
from fettle.recipe import Recipe
from fettle.train.job import StageJob

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "special_tokens_map.json")


def prepare(recipe: Recipe, stages: Sequence[PlannedStage], cache: Path) -> list[StageJob]:
    """A job for every stage, its data encoded under `cache`; what is encoded already is taken as it is.

    Raises UserError for the first mistake in any of the data, with its file and line.
    """
    tokenizers: dict[Path, PreTrainedTokenizerBase] = {}
    jobs = []
    for stage in stages:
        root = stage.origin.root
        if root not in tokenizers:
            tokenizers[root] = load_tokenizer(root)
        tokens = [_tokens(source, stage, tokenizers[root], cache) for source in stage.sources]
        jobs.append(
            StageJob(
                name=stage.spec.name,
                fingerprint=stage.fingerprint,
                spec=stage.spec,
                adapter=stage.adapter,
                seed=recipe.seed,
                base=stage.origin.base,
                from_adapter=stage.origin.adapter,
                tokens=tuple(tokens),
                weights=tuple(source.weight for source in stage.sources),
                heldout=_tokens(stage.heldout, stage, tokenizers[root], cache) if stage.heldout else None,
                max_length=stage.max_length,
                precision=stage.precision,
                folder=stage.folder,
                artifact=stage.artifact,
                recipe=recipe.digest(),
                data=tuple((str(source.path), source.digest) for source in stage.sources),
                end_ids=end_ids(tokenizers[root]),
            )
        )
    return jobs


def end_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids at which generation stops: the end-of-turn token of the chat template, and the end of text."""
    template = template_of(tokenizer)
    found = []
    if template is not None and template.end_of_turn:
        found += tokenizer(template.end_of_turn, add_special_tokens=False)["input_ids"][:1]
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(int(token) for token in found))


def _tokens(
    source: PlannedSource, stage: PlannedStage, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> Path:
    """The folder of the source's encoded examples; named by everything that decides what is in it."""
    root = stage.origin.root
    total = hashlib.sha256(f"{source.digest}/{stage.max_length}/{stage.spec.on_long}/{stage.spec.kind}".encode())
    for name in _TOKENIZER_FILES:
        if (root / name).is_file():
            total.update(digest_file(root / name).encode())
    folder = cache / total.hexdigest()[:32]
    if not folder.is_dir():
        write_tokens(folder, _examples(source, stage, tokenizer))
    if len(TokenSet(folder)) < 1:
        raise UserError("no record here gives an example to learn from", file=source.path, field=source.field)
    return folder


def _examples(
    source: PlannedSource, stage: PlannedStage, tokenizer: PreTrainedTokenizerBase
) -> Iterator[Example]:
    return encode(
        _records(source, stage),
        tokenizer,
        max_length=stage.max_length,
        on_long=stage.spec.on_long,
        counts=Counts(),
    )


def _records(source: PlannedSource, stage: PlannedStage) -> Iterator[Record]:
    for file in source.files:
        for record in read_file(file, split=source.split)[1]:
            if (record.kind == "text") != (stage.spec.kind == "pretrain"):
                raise _wrong_kind(record, stage)
            yield record


def _wrong_kind(record: Record, stage: PlannedStage) -> UserError:
    if stage.spec.kind == "pretrain":
        return UserError(
            f"{record.kind.replace('_', '/')} records in a pretrain stage",
            file=record.file,
            line=record.line,
            field=f"stages.{stage.spec.name}.data",
            expected='raw text: .txt, or {"text": …} records',
            fix="use kind: sft for these",
        )
    return UserError(
        "raw text in an sft stage: it has no answers to learn",
        file=record.file,
        line=record.line,
        field=f"stages.{stage.spec.name}.data",
        expected="messages, prompt/completion or Alpaca records",
        fix="use kind: pretrain for raw text",
    )
