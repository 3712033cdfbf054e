"""`fettle data check` of generated .jsonl files: its speed on one core, and its memory while it checks 2 GB.

    python benchmarks/data.py [--megabytes 60] [--rounds 3] [--no-memory]

Through the function that the command calls. Each figure is the best of its rounds, in a process of its own that is
pinned to one core. The memory is what the process grew by over what it had after checking a file of 1 MB.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from fettle.data.check import inspect_sources
from fettle.data.rows import read_rows
from fettle.recipe.data import DataSpec
from house_format import peak_mib, row, write_results

LEAST_MB_S = 100
MOST_MIB = 64  # for 2 GB
BYTES_A_RECORD = 32  # on top: what the search for duplicates keeps, and the same in order
Words = Callable[[int], str]


def main() -> None:
    options = _options()
    if options.only:
        return _one(Path(options.only), options)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, make in ROWS.items():
            file = Path(folder) / f"{name.split(',')[0].replace(' ', '_')}.jsonl"
            write(file, make, options.megabytes * 10**6)
            found = _measured(file, options.rounds)
            print(f"{name}: check {found['check']:.0f} MB/s, reading alone {found['read']:.0f} MB/s")
            ratio = found["check"] / LEAST_MB_S
            what = f"data check, {name}"
            rows.append(row(what, "MB/s", round(found["check"]), "the least", LEAST_MB_S, ratio, limit=True))
            file.unlink()
        if options.memory:
            file = Path(folder) / "large.jsonl"
            num_records = write(file, ROWS[LARGE], 2 * 10**9)
            bound = MOST_MIB + num_records * BYTES_A_RECORD / 2**20
            grown = _measured(file, 1)["grown"]
            print(f"2 GB, {num_records:,} records: {grown:.0f} MiB more, at most {bound:.0f}")
            what = f"data check, memory grown over 2 GB, {num_records:,} records"
            rows.append(row(what, "MiB", round(grown), "the most", round(bound), bound / max(grown, 1), limit=True))
    write_results("data", rows, "1 core")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=60, help="of each file whose speed is measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-memory", dest="memory", action="store_false", help="leave out the 2 GB file")
    parser.add_argument("--only", help=argparse.SUPPRESS)  # the child that measures one file
    return parser.parse_args()


def write(file: Path, make: Callable[[Words], object], size: int) -> int:
    """Writes rows up to a size in bytes, none twice; the number of them."""
    words = _words()
    written = number = 0
    # Making text takes longer than checking it: after 20 MB the same rows come again, with another number in each.
    lines: list[str] = []
    with open(file, "w", encoding="utf-8") as stream:
        while written < size:
            if number * 1000 < 20_000_000 or not lines:
                lines.append(json.dumps(make(words), ensure_ascii=False))
            line = lines[number % len(lines)].replace("NUMBER", f"{number:09}")
            written += len(line.encode()) + 1
            number += 1
            stream.write(line + "\n")
    return number


def _words() -> Words:
    draw = random.Random(0)
    known = ["".join(draw.choices("etaoinshrdlucm", k=draw.randint(1, 10))) for _ in range(4000)]
    odd = ["café", "naïve", "“so”", "—", "don't", 'a "quoted" word', "x: y", "1,234.5", "end.\n\nNew"]
    known[20:20] = odd  # one word in 20
    weights = [1 / (rank + 3) for rank in range(len(known))]
    buffer: list[str] = []

    def words(size: int) -> str:
        """Text of some `size` characters that no other has."""
        nonlocal buffer
        parts, length = ["NUMBER"], 6
        while length < size:
            if not buffer:
                buffer = draw.choices(known, weights, k=10_000)
            parts.append(buffer.pop())
            length += len(parts[-1]) + 1
        return " ".join(parts)

    return words


def _chat(words: Words) -> object:
    sizes = {"system": 80, "user": 150, "assistant": 500}
    roles = ("system", "user", "assistant", "user", "assistant")
    return {"messages": [{"role": role, "content": words(sizes[role])} for role in roles]}


ROWS: dict[str, Callable[[Words], object]] = {
    "raw text, 2.5 kB a line": lambda words: {"text": words(2400)},
    "alpaca, 840 bytes a line": lambda words: {"instruction": words(90), "input": words(120), "output": words(560)},
    "chats, 1.5 kB a line": _chat,
}
LARGE = "alpaca, 840 bytes a line"


def _measured(file: Path, rounds: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--only", str(file), "--rounds", str(rounds)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _one(file: Path, options: argparse.Namespace) -> None:
    """Prints the speeds and the memory of one file, in a process that does nothing else."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        small = Path(folder) / "small.jsonl"
        with open(file, "rb") as stream:
            small.write_bytes(b"".join(stream.readlines(10**6)))
        _check(small)
    before = peak_mib()
    check = max(_speed(lambda: _check(file), file) for _ in range(options.rounds))
    grown = peak_mib() - before
    read = max(_speed(lambda: _exhaust(read_rows(file)), file) for _ in range(options.rounds))
    print(json.dumps({"check": check, "read": read, "grown": grown}))


def _check(file: Path) -> None:
    report = inspect_sources([DataSpec(path=str(file))], Path)
    assert report.mistakes.count == 0 and not report.warnings, (report.mistakes.first, report.warnings)


def _exhaust(rows: Iterator[object]) -> None:
    for _ in rows:
        pass


def _speed(run: Callable[[], None], file: Path) -> float:
    """MB a second."""
    began = time.perf_counter()
    run()
    return file.stat().st_size / 1e6 / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
