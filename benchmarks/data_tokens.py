"""Tokenize-and-pack of one JSONL file against TRL's own preparation of it, fill of the packed rows, and memory.

    python benchmarks/data_tokens.py [--megabytes 20] [--stream-megabytes 100] [--rounds 2] [--threads 2]

The file is made here: conversations of one question and one answer, whose lengths are spread as Alpaca's are. fettle
reads, checks, renders, tokenizes, masks and writes it, draws one shuffled pass, and packs it into the tensors of every
micro-batch. TRL 1.16 reads it with `datasets` and prepares it as SFTTrainer does with `packing=True,
assistant_only_loss=True`, one process, fresh cache. Both have the bundled tokenizer, its template, and `--threads`.
Rounds alternate and the best of each counts. Memory is the growth of the largest resident set of a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

from house_format import ROOT, peak_mib, row, write_results

MAX_LENGTH = 2048
BATCH_TOKENS = 8192
LEAST_FILL = 0.98
MOST_MB = 100


def main() -> None:
    options = _options()
    os.environ |= {"RAYON_NUM_THREADS": str(options.threads), "TOKENIZERS_PARALLELISM": "true"}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        file = _write_chats(folder / "chats.jsonl", options.megabytes)
        told: dict[str, list[dict[str, float]]] = {"fettle": [], "trl": []}
        for number in range(options.rounds):
            for who, prepare in (("fettle", _fettle), ("trl", _trl)):
                told[who].append(_alone(prepare, file, folder / f"{who}-{number}"))
                print(f"round {number + 1}: {who} {told[who][-1]}")
        large = _write_chats(folder / "large.jsonl", options.stream_megabytes)
        text = _write_lines(folder / "large.txt", options.stream_megabytes)
        memory = {
            "lines of text are tokenized": _alone(_tokenize_large, text, folder / "lines")["megabytes"],
            "conversations are streamed": _alone(_stream_large, large, folder / "stream")["megabytes"],
        }
    best = {who: min(rounds, key=lambda row: row["seconds"]) for who, rounds in told.items()}
    assert best["fettle"]["loss_tokens"] == best["trl"]["loss_tokens"], "both must learn the same tokens"
    _write(options, best, memory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=20)
    parser.add_argument("--stream-megabytes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2, help="of the tokenizer")
    return parser.parse_args()


def _write_chats(file: Path, megabytes: int) -> Path:
    """Questions and answers of words from the bundled corpus; lengths are log-normal, as Alpaca's nearly are."""
    given = random.Random(0)
    words = [
        word for text in sorted((ROOT / "recipes/northline/corpus").glob("*.txt")) for word in text.read_text().split()
    ]

    def said(mean: float, spread: float) -> str:
        size = int(given.lognormvariate(mean, spread)) + 3
        start = given.randrange(len(words) - 1500)
        return " ".join(words[start : start + min(size, 1200)])

    with open(file, "w", encoding="utf-8") as stream:
        while stream.tell() < megabytes * 1_000_000:
            for _ in range(100):
                turns = [{"role": "user", "content": said(2.7, 0.6)}, {"role": "assistant", "content": said(3.8, 1.0)}]
                stream.write(json.dumps({"messages": turns}) + "\n")
    return file


def _write_lines(file: Path, megabytes: int) -> Path:
    text = "".join(path.read_text() for path in sorted((ROOT / "recipes/northline/corpus").glob("*.txt")))
    with open(file, "w", encoding="utf-8") as stream:
        while stream.tell() < megabytes * 1_000_000:
            stream.write(text)
    return file


def _alone(work: Callable[[Path, Path], dict[str, float]], file: Path, folder: Path) -> dict[str, float]:
    """What the work says, done in a new process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, (file, folder))


def _fettle(file: Path, folder: Path) -> dict[str, float]:
    from fettle.data.batches import IGNORE
    from fettle.data.encode import encode
    from fettle.data.mix import Mix, steps_of
    from fettle.data.sources import read_source
    from fettle.data.tokens import write_tokens
    from fettle.models.base import BUNDLED, load_tokenizer
    from fettle.train.causal import CausalTask
    from fettle.train.trainer import MicroBatches

    tokenizer = load_tokenizer(BUNDLED["tiny"])
    began = time.perf_counter()
    tokens = write_tokens(folder, encode(read_source(_source(file)), tokenizer, max_length=MAX_LENGTH))
    written = time.perf_counter() - began
    mix = Mix([Whole(tokens)], (1.0,), 0, lambda example: len(example.input_ids))
    steps = [s.examples for s in steps_of(mix, tokens=BATCH_TOKENS, sequences=None, records=len(tokens))]
    held = loss_tokens = 0
    rows = CausalTask(max_length=MAX_LENGTH, packing=True, pad_id=0).collate
    for batch in MicroBatches(steps, 0, 1, 1, rows):
        held += batch["input_ids"].numel()
        loss_tokens += int((batch["labels"] != IGNORE).sum())
    seconds = time.perf_counter() - began
    fill = int(tokens.lengths().sum()) / held
    return {"seconds": seconds, "of_them_writing": written, "fill": fill, "loss_tokens": loss_tokens}


def _trl(file: Path, folder: Path) -> dict[str, float]:
    os.environ |= {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    from datasets import Dataset, disable_progress_bars, load_dataset
    from trl import SFTConfig, SFTTrainer

    from fettle.models.base import BUNDLED, load_tokenizer

    disable_progress_bars()
    args = SFTConfig(
        output_dir=str(folder / "out"),
        max_length=MAX_LENGTH,
        packing=True,
        assistant_only_loss=True,
        use_cpu=True,
        report_to=[],
        bf16=False,
    )
    with open(file, encoding="utf-8") as stream:
        few = Dataset.from_list([json.loads(line) for line in islice(stream, 64)])
    tokenizer = load_tokenizer(BUNDLED["tiny"])
    trainer = SFTTrainer(model=str(BUNDLED["tiny"]), args=args, processing_class=tokenizer, train_dataset=few)
    began = time.perf_counter()
    data = load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / "cache"))
    packed = trainer._prepare_dataset(data, tokenizer, args, True, None, "train")
    seconds = time.perf_counter() - began
    used = sum(len(ids) for ids in packed["input_ids"])
    loss_tokens = sum(label != -100 for labels in packed["labels"] for label in labels)
    return {"seconds": seconds, "fill": used / (len(packed) * MAX_LENGTH), "loss_tokens": loss_tokens}


def _tokenize_large(file: Path, folder: Path) -> dict[str, float]:
    from fettle.data.encode import encode
    from fettle.data.sources import read_source
    from fettle.data.tokens import write_tokens
    from fettle.models.base import BUNDLED, load_tokenizer

    tokenizer = load_tokenizer(BUNDLED["tiny"])
    _warm_up(file, tokenizer)
    before = peak_mib()
    write_tokens(folder, encode(read_source(_source(file)), tokenizer, max_length=MAX_LENGTH))
    return {"megabytes": peak_mib() - before}


def _stream_large(file: Path, folder: Path) -> dict[str, float]:
    from fettle.data.line_index import StreamedSource, fill_index
    from fettle.data.mix import Mix, steps_of
    from fettle.data.rows import complain
    from fettle.data.stream import Stream
    from fettle.models.base import BUNDLED, load_tokenizer

    tokenizer = load_tokenizer(BUNDLED["tiny"])
    _warm_up(file, tokenizer)
    before = peak_mib()
    folder.mkdir()
    fill_index(folder, file)
    source = StreamedSource(_source(file).spec, (file,), (folder,))
    stream = Stream(source, tokenizer, max_length=MAX_LENGTH, on_long="cut", on_error=complain)
    mix = Mix([stream], (1.0,), 0, lambda example: len(example.input_ids))
    steps = steps_of(mix, tokens=BATCH_TOKENS, sequences=None, records=len(stream))
    began = time.perf_counter()
    tokens = sum(len(one.input_ids) for step in steps for one in step.examples)
    seconds = time.perf_counter() - began
    print(f"streamed {tokens / seconds:,.0f} tokens/s")
    return {"megabytes": peak_mib() - before}


def _warm_up(file: Path, tokenizer: Any) -> None:
    """Encodes the first records, so that what libraries hold on to is there."""
    from fettle.data.encode import encode
    from fettle.data.sources import read_source

    for _ in encode(islice(read_source(_source(file)), 2000), tokenizer, max_length=MAX_LENGTH):
        pass


class Whole:
    """Every example of a set, as a mix draws them."""

    def __init__(self, tokens: Any) -> None:
        self.tokens = tokens

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, positions: Any) -> list[list[Any]]:
        return [[self.tokens[place]] for place in positions.tolist()]


def _source(file: Path) -> Any:
    from fettle.data.sources import OpenSource
    from fettle.recipe.data import DataSpec

    return OpenSource(DataSpec(path=str(file), split="lines"), (file,))


def _write(options: argparse.Namespace, best: dict[str, dict[str, float]], memory: dict[str, float]) -> None:
    ours, theirs = (options.megabytes / best[who]["seconds"] for who in ("fettle", "trl"))
    fill = best["fettle"]["fill"]
    what = f"tokenize and pack {options.megabytes} MB of conversations, {options.threads} threads"
    peer = "TRL 1.16, SFTTrainer's preparation"
    rows = [row(what, "MB/s", round(ours, 2), peer, round(theirs, 2), ours / theirs, limit=False)]
    what = f"share of the packed rows that is no padding, steps of {BATCH_TOKENS} tokens"
    rows.append(row(what, "share", round(fill, 4), "the least", LEAST_FILL, fill / LEAST_FILL, limit=True))
    for grows, grown in memory.items():
        what = f"memory that grows while {grows}, {options.stream_megabytes} MB"
        rows.append(row(what, "MB", round(grown), "the most", MOST_MB, MOST_MB / max(grown, 1), limit=True))
    for told in rows:
        print(f"{told['what']}: {told['fettle']} {told['unit']}, {told['ratio']}x")
    write_results("data_tokens", rows, f"{os.cpu_count()} CPUs")


if __name__ == "__main__":
    main()
