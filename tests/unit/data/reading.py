"""What the tests of reading ask of a file: its rows, its texts, and the one message where it cannot be read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fettle.data.rows import complain, read_rows
from fettle.data.sources import OpenSource, open_source
from fettle.errors import UserError
from fettle.recipe.data import DataSpec


def rows(file: Path, on_error=complain, **how: Any) -> list[tuple[int, dict[str, Any]]]:
    """(line, columns) of each row."""
    return [(row.line, row.columns) for row in read_rows(file, DataSpec(path=str(file), **how), on_error)]


def texts(file: Path, **how: Any) -> list[str]:
    """The column `text` of each row."""
    return [columns["text"] for _, columns in rows(file, **how)]


def opened(path: str | Path, resolve: Callable[[str], Path] = Path, **how: Any) -> OpenSource:
    """The source at a path."""
    return open_source(DataSpec(path=str(path), **how), resolve)


def message(call: Callable[[], object]) -> str:
    """What the UserError of `call` says."""
    with pytest.raises(UserError) as caught:
        call()
    return str(caught.value)
