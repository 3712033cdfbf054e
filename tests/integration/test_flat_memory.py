"""Large data, checked, read and encoded, in memory that does not grow with it: as `benchmarks/data*.py` measure it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest


@pytest.fixture
def benchmarks(root: Path, monkeypatch: pytest.MonkeyPatch):
    """The modules data and data_tokens, by name."""
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    yield importlib.import_module
    for name in ("data", "data_tokens", "house_format"):
        sys.modules.pop(name, None)


@pytest.fixture
def bench(benchmarks):
    return benchmarks("data_tokens")


def test_checking_2_gigabytes_takes_flat_memory(benchmarks, tmp_path) -> None:
    bench = benchmarks("data")
    file = tmp_path / "large.jsonl"
    num_records = bench.write(file, bench.ROWS[bench.LARGE], 2 * 10**9)
    grown = bench._measured(file, 1)["grown"]
    file.unlink()  # pytest keeps the folders of its last runs
    assert grown < bench.MOST_MIB + num_records * bench.BYTES_A_RECORD / 2**20


def test_streaming_100_megabytes_takes_flat_memory(bench, tmp_path) -> None:
    file = bench._write_chats(tmp_path / "chats.jsonl", 100)
    assert file.stat().st_size > 100e6
    assert bench._alone(bench._stream_large, file, tmp_path / "index")["megabytes"] < bench.MOST_MB


def test_encoding_30_megabytes_of_lines_takes_flat_memory(bench, tmp_path) -> None:
    file = bench._write_lines(tmp_path / "lines.txt", 30)
    # It is 4 MB for 20 and for 40 (2026-11); 100, as in the benchmark, take a minute of one core.
    assert bench._alone(bench._tokenize_large, file, tmp_path / "tokens")["megabytes"] < 0.3 * bench.MOST_MB
