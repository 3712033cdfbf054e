"""Where an optimizer step of the sides of `sft.py` goes: matrix products, attention, all else, by torch's profiler.

    python benchmarks/sft_profile.py [--data FILE] [--precision fp32 bf16] [--adapter full lora] [--rounds 3]

The sides in turn, each in a process of one thread on one core, medians. Beside the products is what the same core does
of one large product: whoever is near it gains by no better code of its own.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from house_format import row, write_results
from sft import llamafactory, measured, medians, parser_of, write_case
from sft_case import PROFILED

SIDES = ("fettle", "llamafactory-packed", "bare")
PARTS = ("products", "attention", "all else")


def main() -> None:
    options = parser_of(__doc__, steps=4, rounds=3).parse_args()
    os.environ[PROFILED] = "1"  # which the sides' processes have from this one
    python = None if options.no_llamafactory else llamafactory()
    sides = [side for side in SIDES if python is not None or not side.startswith("llamafactory")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_case(options.data, options.base, folder, options.steps)
        for precision in options.precision:
            for adapter in options.adapter:
                found: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
                for _ in range(options.rounds):
                    for side in sides:
                        told = measured(side, folder, options.base, precision, adapter, python, options.cores[0])
                        found[side].append(told)
                middle = {side: medians(told) for side, told in found.items()}
                for side in sides:
                    print(_line(f"{precision} {adapter:5} {side:20}", middle[side]), flush=True)
                    if side != "fettle":
                        rows += _rows(f"a step, {adapter}, {precision}", middle["fettle"], side, middle[side])
                ours, ceiling = (middle["fettle"][key] for key in ("gflops", "ceiling"))
                what = f"products, {adapter}, {precision}"
                rows.append(row(what, "GFLOP/s", ours, "one large product", ceiling, ours / ceiling, limit=True))
    write_results("sft-profile", rows, f"1 thread, 1 core, a step of {options.data.stem} in torch's profiler")


def _line(who: str, told: dict[str, float]) -> str:
    parts = ", ".join(f"{part} {told[part]:.2f} s" for part in PARTS)
    return f"{who} {parts}; products at {told['gflops']:,.0f} GFLOP/s, a large one {told['ceiling']:,.0f}"


def _rows(what: str, ours: dict[str, float], side: str, its: dict[str, float]) -> list[dict[str, Any]]:
    return [
        row(f"{what}: {part}", "s", ours[part], side, its[part], its[part] / ours[part], limit=side == "bare")
        for part in PARTS
    ]


if __name__ == "__main__":
    main()
