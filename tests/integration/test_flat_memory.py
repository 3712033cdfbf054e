"""100 MB of data, read and encoded, in memory that does not grow with it (`benchmarks/data_tokens.py` measures it)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

MOST_MB = 100


@pytest.fixture
def bench(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import data_tokens

    yield data_tokens
    del sys.modules["data_tokens"]


def test_streaming_100_megabytes_takes_flat_memory(bench, tmp_path) -> None:
    file = bench._write_chats(tmp_path / "chats.jsonl", 100)
    assert file.stat().st_size > 100e6
    assert bench._alone(bench._stream_large, file, tmp_path / "index")["megabytes"] < MOST_MB


def test_encoding_100_megabytes_of_lines_takes_flat_memory(bench, tmp_path) -> None:
    file = bench._write_lines(tmp_path / "lines.txt", 100)
    assert bench._alone(bench._tokenize_large, file, tmp_path / "tokens")["megabytes"] < MOST_MB
