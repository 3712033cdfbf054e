"""Data checked before anything starts: every record of every file parsed, and, given a tokenizer, encoded."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fettle.data.files import suffix_of
from fettle.data.formats import as_records
from fettle.data.record import Record
from fettle.data.rows import read_places, read_rows
from fettle.data.sources import Resolve, open_source
from fettle.errors import UserError
from fettle.recipe import Recipe, Stage
from fettle.recipe.data import DataSpec

if TYPE_CHECKING:  # transformers takes seconds to import, and a check without a base needs none of it
    from fettle.data.encode import Counts
    from fettle.data.measure import Measure

WHOLE_BYTES = 2 << 30
_PLACE_BYTES = 64 << 20
_DIGESTS_KEPT = 1_000_000
_SHOWN = 5


@dataclass(frozen=True)
class FileReport:
    """What was found in one file. bytes: as it lies on disk. is_sampled: too large to be read whole.

    counts: of the encoded records, None where no tokenizer was given. warnings: each with its count and first line.
    """

    file: Path
    format: str
    columns: tuple[str, ...]
    ignored: tuple[str, ...]
    why: str
    records: int
    bytes: int
    is_sampled: bool
    duplicates: int
    warnings: tuple[str, ...]
    counts: Counts | None = None


@dataclass(frozen=True)
class DataReport:
    """What was found in all files. mistakes: the first few of each kind, in the order found, out of `num_mistakes`."""

    files: tuple[FileReport, ...]
    warnings: tuple[str, ...]
    mistakes: tuple[UserError, ...]
    num_mistakes: int

    def raise_mistakes(self) -> None:
        """Raises the UserError there is, or one that tells the first five and how many more there are."""
        if self.num_mistakes == 1:
            raise self.mistakes[0]
        if self.mistakes:
            places = {str(mistake.file) for mistake in self.mistakes}
            more = self.num_mistakes - len(self.mistakes)
            told = [mistake.render() for mistake in self.mistakes] + ([f"… and {more} more"] if more else [])
            got = f"{self.num_mistakes} mistakes\n" + textwrap.indent("\n".join(told), "  ")
            raise UserError(got, file=self.mistakes[0].file if len(places) == 1 else None)

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        files = [asdict(report) | {"file": str(report.file)} for report in self.files]
        errors = [mistake.render() for mistake in self.mistakes]
        return {"files": files, "warnings": list(self.warnings), "errors": errors, "num_errors": self.num_mistakes}


def check_sources(
    specs: Sequence[DataSpec], resolve: Resolve, measure: Measure | None = None, **where: Any
) -> DataReport:
    """What is in every file of some sources. Raises UserError with the first mistakes of all files if there is one.

    where: file, line, field (of a recipe) told when a source has no file at all. Files up to 2 GiB are read whole;
    longer .jsonl files at their ends and in places between.
    """
    report = inspect_sources(specs, resolve, measure, **where)
    report.raise_mistakes()
    return report


def inspect_sources(
    specs: Sequence[DataSpec], resolve: Resolve, measure: Measure | None = None, **where: Any
) -> DataReport:
    """As `check_sources`, with the mistakes in the report."""
    mistakes = _Mistakes()
    files, warnings = [], []
    for spec in specs:
        try:
            source = open_source(spec, resolve, **where)
        except UserError as error:
            mistakes.add(error)
            continue
        if left := source.passed_over:
            told = f"{len(left)} files of other kinds are not read (first: {left[0].name})"
            warnings.append(f"{resolve(spec.path)}: {told}")
        for file in source.files:
            before = mistakes.count
            try:
                files.append(_inspect_file(file, source.spec, measure, mistakes))
            except UserError as error:
                # "No readable record" says nothing new after the mistakes that made them unreadable.
                if mistakes.count == before or error.line is not None:
                    mistakes.add(error)
    if measure is not None and any(report.format != "text" for report in files):
        warnings += measure.template_warnings()
    return DataReport(tuple(files), tuple(warnings), tuple(mistakes.first), mistakes.count)


def inspect_stage(recipe: Recipe, stage: Stage, measure: Measure | None = None) -> DataReport:
    """As `inspect_sources`, for a stage's data, replay and held-out data together; each told with the recipe's line."""
    sources = {"data": stage.data}
    if stage.replay is not None:
        sources["replay"] = (stage.replay.data,)
    if stage.heldout is not None and stage.heldout.data is not None:
        sources["heldout"] = (stage.heldout.data,)
    reports = []
    for key, specs in sources.items():
        name = f"stages.{stage.name}.{key}"
        report = inspect_sources(specs, recipe.resolve, measure, file=recipe.file, line=recipe.line(name), field=name)
        reports.append(_with_wrong_kinds(report, stage, name))
    return DataReport(
        tuple(file for report in reports for file in report.files),
        tuple(dict.fromkeys(warning for report in reports for warning in report.warnings)),
        tuple(mistake for report in reports for mistake in report.mistakes)[:_SHOWN],
        sum(report.num_mistakes for report in reports),
    )


def _with_wrong_kinds(report: DataReport, stage: Stage, field: str) -> DataReport:
    """The report, with a mistake for each file the stage cannot learn from: raw text is for pretrain, and only it."""
    if field.endswith(".replay"):  # earlier or general data may be of either kind
        return report
    expected, other = ("raw text", "sft") if stage.kind == "pretrain" else ("questions and answers", "pretrain")
    wrong = [
        UserError(
            f"{file.format} records in a {stage.kind} stage",
            file=file.file,
            field=field,
            expected=expected,
            fix=f"use kind: {other} for these",
        )
        for file in report.files
        if (file.format == "text") != (stage.kind == "pretrain")
    ]
    mistakes = (*report.mistakes, *wrong)[:_SHOWN]
    return DataReport(report.files, report.warnings, mistakes, report.num_mistakes + len(wrong))


@dataclass
class _Mistakes:
    first: list[UserError] = field(default_factory=list)
    count: int = 0

    def add(self, error: UserError) -> None:
        self.count += 1
        if len(self.first) < _SHOWN:
            self.first.append(error)


def _inspect_file(file: Path, spec: DataSpec, measure: Measure | None, mistakes: _Mistakes) -> FileReport:
    size = file.stat().st_size
    is_sampled = size > WHOLE_BYTES and suffix_of(file) == ".jsonl" and file.suffix.lower() != ".gz"
    if is_sampled:
        rows = read_places(file, spec, window=_PLACE_BYTES, on_error=mistakes.add)
    else:
        rows = read_rows(file, spec, mistakes.add)
    format_, records = as_records(file, rows, spec, mistakes.add)
    notes = _Notes(measure)
    watched = notes.watch(records)
    counts = measure.count(watched) if measure else None
    for _ in watched:
        pass
    told = notes.told() + (measure.length_warnings(counts) if measure and counts else [])
    return FileReport(
        file=file,
        format=format_.name,
        columns=format_.columns,
        ignored=format_.ignored,
        why=format_.why,
        records=notes.records,
        bytes=size,
        is_sampled=is_sampled,
        duplicates=notes.duplicates,
        warnings=tuple(told),
        counts=counts,
    )


class _Notes:
    """Counts the oddities of records that pass by: each kind's number and first line."""

    def __init__(self, measure: Measure | None) -> None:
        self.records = self.duplicates = 0
        self._measure = measure
        self._odd: dict[str, tuple[int, int]] = {}
        self._seen: set[bytes] = set()

    def watch(self, records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            self.records += 1
            for oddity in self._oddities(record):
                count, first = self._odd.get(oddity, (0, record.line))
                self._odd[oddity] = (count + 1, first)
            yield record

    def told(self) -> list[str]:
        """`what (how many, first in line N)`."""
        return [
            f"{what} ({count} record{'s' if count > 1 else ''}, first in line {first})"
            for what, (count, first) in self._odd.items()
        ]

    def _oddities(self, record: Record) -> Iterator[str]:
        digest = bytes.fromhex(record.digest())
        if digest in self._seen:
            self.duplicates += 1
            yield "an earlier record again"
        elif len(self._seen) < _DIGESTS_KEPT:
            self._seen.add(digest)
        turns = record.conversation
        if record.text is not None and not record.text.strip():
            yield "empty text, left out"
        if any(turn.bears_loss and not turn.content.strip() for turn in turns):
            yield "empty answer: the model learns to say nothing"
        if any(turn.role == "user" and not turn.content.strip() for turn in turns):
            yield "empty prompt"
        if turns and turns[-1].role != "assistant":
            yield f"last turn is the {turns[-1].role}'s, which is not learned"
        if self._measure and (token := self._measure.special_in(record)):
            yield f"the text {token} inside the content becomes the special token"
