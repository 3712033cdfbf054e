"""Which bad records were left out (`on_bad_record: skip`), written down: a JSON line each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fettle.errors import UserError

SKIPPED = "skipped.jsonl"


def as_row(error: UserError) -> dict[str, object]:
    """File, line, field and reason."""
    return {"file": str(error.file), "line": error.line, "field": error.field, "reason": error.got}


class SkippedRecords:
    """A file of such rows, each once, also where an earlier attempt has written some of them."""

    def __init__(self, file: Path) -> None:
        self._file = file
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        self._written = set(text.splitlines())

    def add(self, row: Mapping[str, object]) -> None:
        """Appends a row that is not there yet."""
        line = json.dumps(row, ensure_ascii=True)
        if line not in self._written:
            self._written.add(line)
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with open(self._file, "a", encoding="utf-8") as stream:
                stream.write(line + "\n")
