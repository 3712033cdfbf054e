"""What adapters cost an engine on a CPU: none, and 1, 8 or 64 in a batch of 64 answers, by vLLM's own products and by
`fettle.engine.lora_products`.

    python benchmarks/engine_lora.py [--base FOLDER] [--rank 16] [--rounds 3]

One thread, one engine; rounds alternate; medians of generated tokens a second, and of prompt tokens read a second.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from fettle.engine import EngineOptions, start_engine
from fettle.engine.sampling import Sampling
from fettle.models.adapters import attach
from fettle.models.base import load_weights, resolve_base
from fettle.recipe.adapter import AdapterSpec
from house_format import ROOT, row, write_results

ANSWERS, READ, WRITTEN = 64, 64, 32
SHARED = ROOT.parent / "shared" / "models" / "base-8m"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=str(SHARED) if SHARED.is_dir() else "tiny")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    base = resolve_base(told.base)
    options = EngineOptions(threads=1, max_loras=ANSWERS, max_lora_rank=told.rank, max_num_seqs=ANSWERS)
    engine = start_engine(base, options)
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ANSWERS):
            engine.add_adapter(str(number), adapter(base, told.rank, number, Path(folder) / str(number)))
        rows = measured(engine, told.rounds)
    engine.close()
    write_results("engine-lora", rows, "1 thread")


def adapter(base: Path, rank: int, seed: int, folder: Path) -> Path:
    """One on all linear layers, with random weights in both its matrices."""
    model: Any = attach(load_weights(base, torch.float32), AdapterSpec(kind="lora", r=rank), base, seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.02)
    model.save_pretrained(folder)
    return folder


def measured(engine: Any, rounds: int) -> list[dict[str, Any]]:
    """Speeds by the number of adapters in the batch, as rows."""
    from fettle.engine import patches

    ways = {"upstream": patches.restore_upstream, "fettle": patches.multiply_rows_together}
    cases: list[tuple[int, str]] = [(0, "fettle"), *((many, way) for many in (1, 8, ANSWERS) for way in ways)]
    found: dict[tuple[int, str], list[tuple[float, float]]] = {case: [] for case in cases}
    for _ in range(rounds + 1):
        for many, way in cases:
            ways[way]()
            found[many, way].append(speeds(engine, many))
    middle = {case: [statistics.median(one) for one in zip(*told[1:], strict=True)] for case, told in found.items()}
    rows = []
    for place, what in enumerate(("tokens written", "tokens read")):
        plain = middle[0, "fettle"][place]
        print(f"{what}: {plain:,.0f} a second without adapters")
        for many in (1, 8, ANSWERS):
            ours, theirs = middle[many, "fettle"][place], middle[many, "upstream"][place]
            print(f"  {many:2} adapters: {ours:7,.0f}; vLLM's products {theirs:7,.0f}: {ours / theirs:.1f} times")
            told = f"{what}, {ANSWERS} answers, {many} adapter{'s' if many > 1 else ''}"
            rows.append(row(told, "tokens/s", ours, "vLLM's own products", theirs, ours / theirs, limit=False))
            rows.append(row(told, "tokens/s", ours, "without adapters", plain, ours / plain, limit=True))
    return rows


def speeds(engine: Any, many: int) -> tuple[float, float]:
    """(tokens written a second, tokens read a second), of which the second is to the first token."""
    prompts = [tuple((31 * place + 7 * number) % 1900 + 20 for place in range(READ)) for number in range(ANSWERS)]
    names = [str(number % many) if many else None for number in range(ANSWERS)]

    def seconds(count: int) -> float:
        began = time.perf_counter()
        engine.generate(prompts, Sampling(max_new_tokens=count, ignore_eos=True), names)
        return time.perf_counter() - began

    reading, both = seconds(1), seconds(WRITTEN)
    return ANSWERS * (WRITTEN - 1) / (both - reading), ANSWERS * READ / reading


if __name__ == "__main__":
    main()
