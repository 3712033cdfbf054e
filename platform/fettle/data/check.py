"""Data checked before anything starts: every record of every file parsed, and, given a tokenizer, encoded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.data.formats import as_records
from fettle.data.notes import AGAIN, Notes
from fettle.data.overlap import Heldout
from fettle.data.record import Record, RecordKind
from fettle.data.report import SHOWN, DataReport, FileReport, Finding, Mistakes
from fettle.data.rows import read_rows
from fettle.data.sample import sample_rows
from fettle.data.sources import Resolve, open_source
from fettle.errors import UserError
from fettle.recipe import Recipe
from fettle.recipe.data import DataSpec
from fettle.recipe.distill import DistillStage
from fettle.recipe.kinds import PreferenceStage
from fettle.recipe.stages import TrainingStage

if TYPE_CHECKING:  # transformers takes seconds to import, and a check without a base needs none of it
    from fettle.data.encode import Counts
    from fettle.data.measure import Measure

_ROWS_OF_LARGE = 100_000
# What the kinds of stages learn from: in words, and as kinds of records.
_LEARNED: dict[str, tuple[str, tuple[RecordKind, ...]]] = {
    "pretrain": ("raw text", ("text",)),
    "sft": ("questions and answers", ("messages", "prompt_completion")),
    "preference": ("preferred and rejected answers", ("preference", "unpaired")),
    "reward": ("preferred and rejected answers", ("preference",)),
    "classify": ("texts with labels", ("label",)),
    "distill": ("raw text, or questions and answers", ("text", "messages", "prompt_completion")),
}
_TOKENWISE = ("pretrain", "sft", "distill")  # they may replay each other's data


def inspect_sources(
    specs: Sequence[DataSpec],
    resolve: Resolve,
    measure: Measure | None = None,
    *,
    heldout: Sequence[DataSpec] = (),
    sample: int | None = None,
    **where: Any,
) -> DataReport:
    """What is in every file of some sources, with the mistakes, and what they share with held-out ones.

    sample: records of each file, where not all of them are to be read. where: file, line, field (of a recipe) told when
    a source has no file at all. Memory is flat but for 16 bytes a record, of at most 20 million of each file (`Notes`),
    and the held-out data (`Heldout`).
    """
    inspection = _Inspection(resolve, measure, sample)
    if heldout:
        inspection.hold(heldout, where)
    inspection.read(specs, where)
    return inspection.report()


def inspect_stage(
    recipe: Recipe,
    stage: TrainingStage,
    measure: Measure | None = None,
    *,
    sample: int | None = None,
    large_bytes: float = math.inf,
) -> DataReport:
    """As `inspect_sources`, for a stage's data, replay and held-out data; each told with the recipe's line.

    large_bytes: of a larger file, only 100,000 records are read.
    """

    def where(key: str) -> dict[str, Any]:
        name = f"stages.{stage.name}.{key}"
        return recipe.where(name)

    inspection = _Inspection(recipe.resolve, measure, sample, large_bytes)
    if stage.heldout is not None and stage.heldout.data is not None:
        held = inspection.hold([stage.heldout.data], where("heldout"))
        inspection.refuse_wrong_kinds(held, stage, "heldout")
    inspection.refuse_wrong_kinds(inspection.read(stage.data, where("data")), stage, "data")
    inspection.refuse_wrong_kinds(inspection.read(recipe.replayed(stage), where("replay")), stage, "replay")
    return inspection.report()


class _Inspection:
    """Files read so far, the held-out ones first."""

    def __init__(
        self, resolve: Resolve, measure: Measure | None, sample: int | None, large_bytes: float = math.inf
    ) -> None:
        self._resolve, self._measure, self._sample, self._large = resolve, measure, sample, large_bytes
        self._files: list[FileReport] = []
        self._held: list[FileReport] = []
        self._heldout: Heldout | None = None
        self._warnings: list[str] = []
        self._mistakes = Mistakes()

    def hold(self, specs: Iterable[DataSpec], where: dict[str, Any]) -> list[FileReport]:
        """Reads held-out sources, with which all that is read later is compared."""
        self._heldout = Heldout()
        self._held += (found := self._read(specs, where, self._heldout.hold))
        return found

    def read(self, specs: Iterable[DataSpec], where: dict[str, Any]) -> list[FileReport]:
        """Reads training sources."""
        self._files += (found := self._read(specs, where, self._heldout.look if self._heldout else None))
        return found

    def refuse_wrong_kinds(self, files: Iterable[FileReport], stage: TrainingStage, key: str) -> None:
        """A mistake for each file that the stage cannot learn from. Earlier or general data may be of any kind."""
        expected, kinds = _LEARNED[stage.kind]
        if isinstance(stage, PreferenceStage) and stage.loss != "kto":
            kinds = ("preference",)
        if isinstance(stage, DistillStage) and stage.loss == "answers":
            expected, kinds = "prompts, with or without answers", ("prompt", "messages", "prompt_completion")
        if key == "replay" and stage.kind in _TOKENWISE:
            expected, kinds = _LEARNED["distill"]
        for file in files:
            wrong = next((kind for kind in file.kinds if kind not in kinds), None)
            if wrong is not None:
                got = f"{file.format} records for a stage of kind {stage.kind}"
                field = f"stages.{stage.name}.{key}"
                fix = _fix(wrong, file, stage.kind)
                self._mistakes.add(UserError(got, file=file.file, field=field, expected=expected, fix=fix))

    def report(self) -> DataReport:
        """What was found in all."""
        files = (*self._files, *self._held)
        overlap = self._heldout.found() if self._heldout else None
        warnings = self._warnings + _unknown_labels(self._files, self._held)
        if overlap is not None and overlap.pairs:
            warnings.append(str(overlap))
        if self._measure is not None and any(file.format != "text" for file in files):
            warnings += self._measure.template_warnings()
        return DataReport(files, tuple(dict.fromkeys(warnings)), self._mistakes, overlap)

    def _read(
        self, specs: Iterable[DataSpec], where: dict[str, Any], see: Callable[[Record], None] | None
    ) -> list[FileReport]:
        found = []
        for spec in specs:
            try:
                source = open_source(spec, self._resolve, **where)
            except UserError as error:
                self._mistakes.add(error)
                continue
            if left := source.passed_over:
                many = f"{len(left)} file{'s' if len(left) > 1 else ''} of other kinds"
                self._warnings.append(f"{spec.path}: {many} not read (first: {left[0].name})")
            limit = source.spec.limit
            for place, file in enumerate(source.files):
                if limit == 0:
                    self._warnings.append(f"{spec.path}: limit leaves {len(source.files) - place} files unread")
                    break
                before = self._mistakes.count
                try:
                    found.append(report := self._inspect_file(file, source.spec, limit, see))
                except UserError as error:
                    # "No readable record" says nothing new after the mistakes that made them unreadable.
                    if self._mistakes.count == before or error.line is not None:
                        self._mistakes.add(error)
                else:
                    limit = limit - report.records if limit is not None else None
        return found

    def _inspect_file(
        self, file: Path, spec: DataSpec, limit: int | None, see: Callable[[Record], None] | None
    ) -> FileReport:
        before = self._mistakes.count
        skipped = Mistakes()
        on_error = skipped.add if spec.on_bad_record == "skip" else self._mistakes.add
        size = file.stat().st_size
        sample = self._sample or (_ROWS_OF_LARGE if size > self._large else None)
        rows = sample_rows(file, spec, sample, 0, on_error) if sample else read_rows(file, spec, on_error)
        try:
            format_, records = as_records(file, rows, spec, on_error)
        except UserError as error:
            raise skipped.first[0] if skipped.first and error.line is None else error from None
        notes = Notes(self._measure)
        watched = notes.watch(islice(records, limit), see)
        counts = lengths = None
        if self._measure is None:
            for _ in watched:
                pass
            findings = notes.findings()
        else:
            counts, lengths = self._measure.count(watched)
            findings = notes.findings() + _lost(counts, self._measure.max_length)
        if skipped.count:
            first = skipped.first[0]
            more = ": ".join(part for part in (first.field, first.got) if part)
            findings.append(Finding("bad record, which is skipped", skipped.count, first.line, more))
        num_read = notes.records + skipped.count + self._mistakes.count - before
        return FileReport(
            file=file,
            format=format_.name,
            why=format_.why,
            columns=format_.columns,
            ignored=format_.ignored,
            records=notes.records,
            kinds=notes.kinds,
            bytes=size,
            is_sampled=sample is not None and num_read >= sample,
            duplicates=next((found.count for found in findings if found.what == AGAIN), 0),
            skipped=skipped.count,
            balance=notes.balance(),
            warnings=tuple(findings),
            counts=counts,
            lengths=lengths,
        )


def _lost(counts: Counts, max_length: int) -> list[Finding]:
    """What is lost to `max_length`."""
    lost = {
        f"longer than {max_length:,} tokens: cut": counts.cut,
        f"longer than {max_length:,} tokens: skipped": counts.skipped_long,
        f"nothing to learn within {max_length:,} tokens: skipped": counts.skipped_empty,
    }
    return [Finding(what, count) for what, count in lost.items() if count]


def _fix(wrong: RecordKind, file: FileReport, stage: str) -> str | None:
    """What to do about records that a kind of stage cannot learn from."""
    if wrong == "unpaired" and stage == "preference":
        return "loss: kto learns from answers that are judged by themselves"
    fixes = [f"use kind: {kind} for these" for kind, (_, kinds) in _LEARNED.items() if wrong in kinds][:1]
    if wrong == "label" and stage == "pretrain":
        fixes.append("format: text learns their text alone")
    if wrong == "preference" and {"prompt", "chosen"} <= {*file.columns}:
        fixes.append("format: prompt_completion with columns: {completion: chosen} learns the chosen answers alone")
    return "; ".join(fixes) or None


def _unknown_labels(trained: Iterable[FileReport], held: Iterable[FileReport]) -> list[str]:
    """A warning where held-out records have labels that no training record has."""
    known = {label for file in trained for label in file.balance.labels}
    unknown = [label for file in held for label in file.balance.labels if label not in known]
    if not known or not unknown:
        return []
    shown = ", ".join(f"'{label}'" for label in unknown[:SHOWN]) + (", …" if len(unknown) > SHOWN else "")
    are = "label of held-out records is" if len(unknown) == 1 else "labels of held-out records are"
    return [f"{len(unknown)} {are} in no training record: {shown}"]
