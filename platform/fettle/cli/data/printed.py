"""A report on data as a person reads it: a table of the files, then what is noteworthy, each thing once."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from fettle.data.report import DataReport, FileReport, Finding

_MANY_FILES, _MOST_ROWS, _WIDE, _FEW_LABELS, _SHOWN = 30, 40, 120, 6, 4
_FILE, _TOKENS = ("format", "records", "size"), ("tokens", "learned", "mean", "median", "95 %", "longest")


def print_report(name: str, report: DataReport, sample: int | None) -> None:
    """Prints the report (of a recipe's stage, by its name), warnings in yellow."""
    from rich.console import Console

    width = shutil.get_terminal_size((160, 24)).columns
    console = Console(highlight=False, markup=False, width=width)
    if name:
        console.print(f"stage {name}", style="bold")
    names = _Names([file.file for file in report.files])
    if names.folder:
        console.print(f"in {names.folder}:")
    for table in _tables(_rows(report.files, names), width):
        console.print(table)
    if any(file.is_sampled for file in report.files):
        console.print(f"~ of this file only a sample of {sample:,} records was read")
    facts = [*_formats(report.files, names), *_balances(report.files, names)]
    if report.overlap is not None and not report.overlap.pairs:
        facts.append(str(report.overlap))
    for fact in facts:
        console.print(_wrapped(fact, width), style="dim", soft_wrap=True)
    for warning in [*_findings(report.files, names), *report.warnings]:
        console.print(_wrapped(f"warning: {warning}", width), style="yellow", soft_wrap=True)


class _Names:
    """How files are called: where there are several, without the folder they share, which is told once."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._here = Path.cwd()
        shared = os.path.commonpath([self._short(file).parent for file in files]) if len(files) > 1 else ""
        self.folder = shared if shared not in ("", ".") else ""

    def of(self, file: Path) -> str:
        short = self._short(file)
        return str(short.relative_to(self.folder) if self.folder else short)

    def all(self, files: Sequence[FileReport]) -> str:
        """The first file's, and how many more there are."""
        more = len(files) - 1
        return self.of(files[0].file) + (f" and {more:,} more file{'s' if more > 1 else ''}" if more else "")

    def _short(self, file: Path) -> Path:
        return file.relative_to(self._here) if file.is_relative_to(self._here) else file


def _wrapped(line: str, width: int) -> str:
    """For a person the line's own lines, indented; for a program one."""
    if not sys.stdout.isatty():
        return line
    return textwrap.fill(line, width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _rows(files: Sequence[FileReport], names: _Names) -> list[tuple[str, list[FileReport]]]:
    """(what a row of the table is called, its files): one file each; of many, a folder's of one format together."""
    if len(files) <= _MANY_FILES:
        return [(names.of(file.file), [file]) for file in files]
    alike: dict[tuple[Path, str], list[FileReport]] = {}
    for file in files:
        alike.setdefault((file.file.parent, file.format), []).append(file)
    rows: list[tuple[str, list[FileReport]]] = []
    for (folder, _), group in alike.items():
        if len(group) > 9:
            rows.append((f"{names.of(folder)}/ ({len(group):,} files)", group))
        else:
            rows += [(names.of(file.file), [file]) for file in group]
    if len(rows) > _MOST_ROWS:
        rest = [file for _, group in rows[_MOST_ROWS - 1 :] for file in group]
        rows[_MOST_ROWS - 1 :] = [(f"… {len(rest):,} more files", rest)]
    return rows


def _tables(rows: list[tuple[str, list[FileReport]]], width: int) -> Iterator[Table]:
    """One table, or two, the second of tokens, where one would be too wide."""
    if not rows:
        return
    has_tokens = any(file.counts for _, files in rows for file in files)
    if not has_tokens:
        yield _table(rows, _FILE)
    elif width >= _WIDE:
        yield _table(rows, _FILE + _TOKENS)
    else:
        yield _table(rows, _FILE)
        yield _table(rows, _TOKENS)


def _table(rows: list[tuple[str, list[FileReport]]], columns: tuple[str, ...]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("file", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="left" if heading == "format" else "right", no_wrap=True)
    for called, files in rows:
        cells = _cells(files)
        table.add_row(called, *(cells.get(heading, "") for heading in columns))
    return table


def _cells(files: list[FileReport]) -> dict[str, str]:
    """The cells of a row by their headings."""
    first = files[0]
    records = sum(file.records for file in files)
    cells = {
        "format": first.format if all(file.format == first.format for file in files) else "several",
        "records": ("~ " if any(file.is_sampled for file in files) else "") + f"{records:,}",
        "size": _size(sum(file.bytes for file in files)),
    }
    counts = [file.counts for file in files if file.counts is not None]
    if counts:
        tokens = sum(count.tokens for count in counts)
        cells["tokens"] = f"{tokens:,}"
        if learned := sum(count.loss_tokens for count in counts):
            cells["learned"] = f"{learned / tokens:.0%}"
    if lengths := [file.lengths for file in files if file.lengths is not None]:
        cells["mean"] = f"{sum(file.lengths.mean * file.records for file in files if file.lengths) / records:,.0f}"
        cells["longest"] = f"{max(length.longest for length in lengths):,}"
        if len(files) == 1:
            cells |= {"median": f"{lengths[0].p50:,}", "95 %": f"{lengths[0].p95:,}"}
    return cells


def _formats(files: Sequence[FileReport], names: _Names) -> Iterator[str]:
    """What was decided about the files, and why; and which columns are not read."""
    alike: dict[str, list[FileReport]] = {}
    for file in files:
        unread = f"; not read: {', '.join(file.ignored)}" if file.ignored else ""
        alike.setdefault(f"{file.format}, because {file.why}{unread}", []).append(file)
    for told, group in alike.items():
        yield f"{told} ({names.all(group)})" if len(files) > 1 else told


def _balances(files: Sequence[FileReport], names: _Names) -> Iterator[str]:
    for file in files:
        labels = list(file.balance.labels.items())
        total = sum(file.balance.labels.values())
        if len(labels) > _FEW_LABELS:
            (common, most), (rare, fewest) = labels[0], labels[-1]
            told = f"{most:,} of each" if most == fewest else f"from {most:,} '{common}' to {fewest:,} '{rare}'"
            told = f"{len(labels):,} labels, {told}"
            yield f"{names.of(file.file)}: {told}"
        elif labels:
            told = ", ".join(f"{count:,} '{label}' ({count / total:.0%})" for label, count in labels)
            yield f"{names.of(file.file)}: {told}"
        if set(file.balance.answers) - {2}:
            told = ", ".join(f"{count:,} with {number}" for number, count in file.balance.answers.items())
            yield f"{names.of(file.file)}: answers to a prompt: {told}"


def _findings(files: Sequence[FileReport], names: _Names) -> Iterator[str]:
    """Oddities, the same one of several files together."""
    alike: dict[str, list[tuple[FileReport, Finding]]] = {}
    for file in files:
        for found in file.warnings:
            alike.setdefault(found.what, []).append((file, found))
    for what, group in alike.items():
        group.sort(key=lambda one: -one[1].count)
        file, found = group[0]
        if len(group) == 1:
            yield f"{names.of(file.file)}: {found}"
            continue
        places = [
            names.of(file.file) + (f":{found.line}" if found.line is not None else "") + f" ({found.count:,})"
            for file, found in group
        ]
        more = f", and {len(group) - _SHOWN:,} more" if len(group) > _SHOWN else ""
        total = sum(found.count for _, found in group)
        yield f"{what} ({total:,} records: {', '.join(places[:_SHOWN])}{more})"


def _size(num_bytes: int) -> str:
    value = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} GB"
