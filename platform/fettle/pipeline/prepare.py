"""Each planned stage's data, checked and encoded on the driver, before any worker starts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from fettle.artifact import digest_file
from fettle.data.chat import rendering_of, template_of
from fettle.data.check import inspect_stage
from fettle.data.encode import Counts, encode
from fettle.data.sources import read_source
from fettle.data.tokens import TokenSet, write_tokens
from fettle.errors import UserError, did_you_mean
from fettle.models.base import linear_layers, load_tokenizer
from fettle.pipeline.graph import PlannedSource, PlannedStage
from fettle.recipe import Recipe
from fettle.train.job import StageJob

# Whatever transformers makes a tokenizer of; by the model_type in config.json it may rebuild parts (train.md 0d).
_TOKENIZER_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "tekken.json"),
    *("chat_template.jinja", "chat_template.json"),
)


def prepare(recipe: Recipe, stages: Sequence[PlannedStage], cache: Path) -> tuple[list[StageJob], list[str]]:
    """(a job for every stage, what to tell of the data); encoded under `cache`, where what is there is taken as it is.

    Raises UserError with the first mistakes in any of the data, each with its file and line, before encoding any.
    """
    notes = []
    for stage in stages:
        _check_targets(recipe, stage)
        found = inspect_stage(recipe, stage.spec)
        found.raise_mistakes()
        num_warnings = len(found.warnings) + sum(len(file.warnings) for file in found.files)
        if num_warnings:
            warnings = f"{num_warnings} warning{'s' if num_warnings > 1 else ''}"
            notes.append(f"stages.{stage.spec.name}: {warnings}; `fettle data check` tells them")
    tokenizers: dict[Path, PreTrainedTokenizerBase] = {}
    jobs = []
    for stage in stages:
        root = stage.origin.root
        if root not in tokenizers:
            tokenizers[root] = load_tokenizer(root)
        tokens = []
        for source in stage.sources:
            tokens.append(_tokens(source, stage, tokenizers[root], cache))
            notes += _notes(source, stage, TokenSet(tokens[-1])) + _plain_prompt(source, tokenizers[root])
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
                data=tuple((source.opened.spec.path, source.digest) for source in stage.sources),
                end_ids=end_ids(tokenizers[root]),
            )
        )
    return jobs, notes


def _check_targets(recipe: Recipe, stage: PlannedStage) -> None:
    """Raises UserError where an adapter's targets are no layers of the model, which a worker would find out late."""
    if stage.adapter == "full" or stage.adapter.targets == "all-linear":
        return
    layers = linear_layers(stage.origin.root)
    for target in stage.adapter.targets:
        if target.rpartition(".")[2] not in layers:
            field = f"stages.{stage.spec.name}.adapter.targets" if stage.spec.adapter else "adapter.targets"
            raise UserError(
                f"the model has no linear layer '{target}'{did_you_mean(target, layers)}",
                file=recipe.file,
                line=recipe.line(field),
                field=field,
                expected=", ".join(layers),
            )


def end_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Token ids at which generation stops: the end-of-turn token of the chat template, and the end of text."""
    template = template_of(tokenizer)
    found = []
    if template is not None and template.end_of_turn:
        found += tokenizer(template.end_of_turn, add_special_tokens=False)["input_ids"][:1]
    if tokenizer.eos_token_id is not None:
        found.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(int(token) for token in found))


def _tokens(source: PlannedSource, stage: PlannedStage, tokenizer: PreTrainedTokenizerBase, cache: Path) -> Path:
    """The folder of the source's encoded examples; named by everything that decides what is in it."""
    root = stage.origin.root
    total = hashlib.sha256(f"{source.digest}/{stage.max_length}/{stage.spec.on_long}".encode())
    for name in _TOKENIZER_FILES:
        if (root / name).is_file():
            total.update(digest_file(root / name).encode())
    folder = cache / total.hexdigest()[:32]
    if not folder.is_dir():
        counts = Counts()
        examples = encode(
            read_source(source.opened),
            tokenizer,
            max_length=stage.max_length,
            on_long=stage.spec.on_long,
            counts=counts,
        )
        write_tokens(folder, examples, counts=lambda: asdict(counts))
    return folder


def _notes(source: PlannedSource, stage: PlannedStage, tokens: TokenSet) -> list[str]:
    """What the user should know became of the source's records."""
    counts = tokens.counts
    told = []
    if counts["cut"]:
        told.append(f"{counts['cut']:,} longer than {stage.max_length} tokens were cut")
    if counts["skipped_long"]:
        told.append(f"{counts['skipped_long']:,} longer than {stage.max_length} tokens were skipped")
    if counts["skipped_empty"]:
        told.append(f"{counts['skipped_empty']:,} with nothing to learn were skipped")
    return [f"{source.field}: of {counts['records']:,} records " + ", ".join(told)] if told else []


def _plain_prompt(source: PlannedSource, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """How the first record reads where the base has no chat template: users should see what their prompts become."""
    first = next(read_source(source.opened))
    if tokenizer.chat_template or first.text is not None:
        return []
    return [f"{source.field}: the base has no chat template; the first record reads\n{rendering_of(first, tokenizer)}"]
