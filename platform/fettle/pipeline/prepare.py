"""Each planned stage's data, checked and encoded on the driver, before any worker starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from fettle.data.chat import check_template, rendering_of
from fettle.data.check import inspect_stage
from fettle.data.coder import end_ids
from fettle.data.line_index import check_indexable
from fettle.data.report import DataReport
from fettle.data.skipped import SKIPPED, SkippedRecords
from fettle.data.sources import read_source
from fettle.data.tokens import DEFAULT_HELDOUT, TokenSet
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.pipeline.adapters import check_adapter
from fettle.pipeline.classifier import check_freezing, check_labels
from fettle.pipeline.distilling import answered_sources, check_teacher, teacher_of
from fettle.pipeline.encoding import Encoder, bad_records, encoded, streamed, streamed_heldout
from fettle.pipeline.families import check_family, check_vocabulary, packs
from fettle.pipeline.from_nothing import what_was_made
from fettle.pipeline.halved import check_halved
from fettle.pipeline.headed import check_head, check_margins
from fettle.pipeline.heldout import check_early_stop
from fettle.pipeline.layers import check_layers
from fettle.pipeline.merging import merge_job
from fettle.pipeline.planned import Planned, PlannedMerge, PlannedQuantize, PlannedRl, PlannedSource, PlannedStage
from fettle.pipeline.quantizing import quantize_job
from fettle.pipeline.reinforcing import check_rl, rl_job
from fettle.recipe import Recipe
from fettle.recipe.kinds import ClassifyStage
from fettle.recipe.stages import TrainingStage
from fettle.train.job import Job, StageJob

# Larger files are looked at here and there; what is wrong in between is told when it is encoded.
_LARGE_BYTES = 2 << 30


def prepare(recipe: Recipe, stages: Sequence[Planned], into: Path) -> tuple[list[Job], list[str]]:
    """(a job for every stage, what to tell of the data); encoded below `into`, where what is there is taken as it is.

    Raises UserError with the first mistakes in any of the data, each with its file and line, before encoding any.
    """
    notes = [note for root in dict.fromkeys(one.origin.root for one in stages) if (note := what_was_made(root))]
    labels: dict[str, tuple[str, ...]] = {}
    training = [stage for stage in stages if isinstance(stage, PlannedStage)]
    tokenizers = _tokenizers(recipe, stages)
    for stage in training:
        check_head(recipe, stage)
        check_family(recipe, stage)
        check_adapter(recipe, stage)
        check_freezing(recipe, stage)
        check_layers(recipe, stage)
        check_teacher(recipe, stage)
        if stage.spec.streaming:
            for source in stage.sources:
                check_indexable(source.opened.files, source.opened.spec, source.field)
        found = inspect_stage(recipe, stage.spec, large_bytes=_LARGE_BYTES)
        found.raise_mistakes()
        check_halved(recipe, stage, found)
        labels[stage.spec.name] = _labels(recipe, stage.spec, found)
        check_labels(recipe, stage, labels)
        num_warnings = len(found.warnings) + sum(len(file.warnings) for file in found.files)
        if num_warnings:
            warnings = f"{num_warnings} warning{'s' if num_warnings > 1 else ''}"
            notes.append(f"stages.{stage.spec.name}: {warnings}; `fettle data check` tells them")
    jobs: dict[str, Job] = {}
    for merging in (stage for stage in stages if isinstance(stage, PlannedMerge)):
        tokenizer = tokenizers[merging.origin.root, merging.origin.chat_template]
        jobs[merging.spec.name] = merge_job(recipe, merging, end_ids(tokenizer))
    for rounding in (stage for stage in stages if isinstance(stage, PlannedQuantize)):
        tokenizer = tokenizers[rounding.origin.root, rounding.origin.chat_template]
        jobs[rounding.spec.name] = quantize_job(recipe, rounding, end_ids(tokenizer))
    for reinforced in (stage for stage in stages if isinstance(stage, PlannedRl)):
        tokenizer = tokenizers[reinforced.origin.root, reinforced.origin.chat_template]
        check_adapter(recipe, reinforced)
        notes += check_rl(recipe, reinforced, tokenizer)
        jobs[reinforced.spec.name] = rl_job(recipe, reinforced, tokenizer, end_ids(tokenizer))
    for stage in training:
        tokenizer = tokenizers[stage.origin.root, stage.origin.chat_template]
        encoder = Encoder(stage, tokenizer, labels[stage.spec.name])
        streaming = stage.spec.streaming
        teacher, told = teacher_of(recipe, stage, into.parent, tokenizer, end_ids)
        notes += told
        own = stage.sources[len(answered_sources(stage)) :]
        streams = tuple(streamed(source, into) for source in stage.sources if streaming)
        tokens = tuple(encoded(source, encoder, into) for source in own if not streaming)
        check_margins(recipe, stage, tokens)
        is_answered = len(own) < len(stage.sources)
        heldout = encoded(stage.heldout, encoder, into) if stage.heldout and not is_answered else ()
        check_vocabulary(recipe, stage, tokenizer, [folder for folders in (*tokens, heldout) for folder in folders])
        notes += _notes(stage, tokens, heldout)
        notes += [note for source in stage.sources for note in _plain_prompt(source, tokenizer)]
        if streaming and not heldout:
            spec = stage.spec.heldout or DEFAULT_HELDOUT
            heldout = (streamed_heldout(stage.sources[0], encoder, spec, into),)
        check_early_stop(recipe, stage, () if is_answered else tokens, heldout)
        jobs[stage.spec.name] = StageJob(
            name=stage.spec.name,
            fingerprint=stage.fingerprint,
            spec=stage.spec.model_copy(update={"packing": packs(stage)}),
            adapter=stage.adapter,
            seed=recipe.seed,
            base=stage.origin.base,
            from_adapter=stage.origin.adapter,
            tokens=tokens,
            streams=streams,
            weights=tuple(source.weight for source in stage.sources),
            heldout=heldout,
            max_length=stage.max_length,
            precision=stage.precision,
            folder=stage.folder,
            artifact=stage.artifact,
            recipe=recipe.digest(),
            data=tuple((source.opened.spec.path, source.digest) for source in stage.sources),
            data_licences=tuple((source.opened.spec.path, source.licences) for source in stage.sources),
            pad_id=tokenizer.pad_token_id or 0,
            labels=encoder.labels,
            teacher=teacher,
            near=stage.origin.root if getattr(stage.spec, "kl_to_base", None) is not None else None,
            end_ids=end_ids(tokenizer),
            chat_template=stage.origin.chat_template,
        )
    return [jobs[stage.spec.name] for stage in stages], notes


def _tokenizers(recipe: Recipe, stages: Sequence[Planned]) -> dict[tuple[Path, str | None], PreTrainedTokenizerBase]:
    """By model and chat template, those the stages need. Raises UserError where the recipe's template suits one not."""
    found = {}
    for root, template in dict.fromkeys((stage.origin.root, stage.origin.chat_template) for stage in stages):
        found[root, template] = load_tokenizer(root, template)
        if recipe.chat_template is not None:
            where = recipe.where("chat_template")
            check_template(found[root, template], **where)
    return found


def _labels(recipe: Recipe, spec: TrainingStage, found: DataReport) -> tuple[str, ...]:
    """A classifier's labels in the order of its head's rows; of another stage none.

    Raises UserError where the data has one that the recipe does not list, or fewer than two.
    """
    if not isinstance(spec, ClassifyStage):
        return ()
    seen = sorted({label for file in found.files for label in file.balance.labels})
    field = f"stages.{spec.name}.labels"
    where: Any = recipe.where(field)
    unlisted = [label for label in seen if label not in (spec.labels or seen)]
    if unlisted:
        expected = ", ".join(spec.labels or ())
        raise UserError(f"the data has the label '{unlisted[0]}', which is not listed", expected=expected, **where)
    if len(spec.labels or seen) < 2:
        raise UserError(f"the only label is '{seen[0]}': there is nothing to tell apart", **where)
    return spec.labels or tuple(seen)


def _notes(stage: PlannedStage, tokens: Sequence[tuple[Path, ...]], heldout: tuple[Path, ...]) -> list[str]:
    """What the user should know became of the records that were encoded. Which were bad is written down in the stage's
    folder."""
    notes: list[str] = []
    bad: list[dict[str, object]] = []
    own = stage.sources[len(answered_sources(stage)) :]
    sources = [*zip(own, tokens, strict=False), *([(stage.heldout, heldout)] if stage.heldout and heldout else [])]
    for source, folders in sources:
        counts = TokenSet(*folders).counts
        told = []
        if counts["cut"]:
            told.append(f"{counts['cut']:,} longer than {stage.max_length} tokens were cut")
        if counts["skipped_long"]:
            told.append(f"{counts['skipped_long']:,} longer than {stage.max_length} tokens were skipped")
        if counts["skipped_empty"]:
            told.append(f"{counts['skipped_empty']:,} with nothing to learn were skipped")
        if told:
            notes.append(f"{source.field}: of {counts['records']:,} records " + ", ".join(told))
        bad += bad_records(source, folders)
    if bad:
        skipped = SkippedRecords(file := stage.folder / SKIPPED)
        for row in bad:
            skipped.add(row)
        notes.append(f"stages.{stage.spec.name}: {len(bad):,} bad record{'s' * (len(bad) > 1)} left out; see {file}")
    return notes


def _plain_prompt(source: PlannedSource, tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """How the first record reads where the base has no chat template: users should see what their prompts become."""
    first = next(read_source(source.opened, on_error=lambda error: None))  # all were read before
    if tokenizer.chat_template or first.text is not None:
        return []
    return [f"{source.field}: the base has no chat template; the first record reads\n{rendering_of(first, tokenizer)}"]
