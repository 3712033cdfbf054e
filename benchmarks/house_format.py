"""Measurements as a file in `benchmarks/results`: what, its unit, fettle's value, the peer's or the bound's, and which
is better by how much (a ratio above 1: fettle)."""

from __future__ import annotations

import json
import platform
from datetime import date
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def peak_mib() -> float:
    """The most memory this process has held. Not getrusage's, which a child takes over from its parent."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def row(
    what: str, unit: str, fettle: float, peer: str, peer_value: float, ratio: float, *, limit: bool
) -> dict[str, Any]:
    """One measurement. limit: the other side is a bound, not a peer."""
    told = {"what": what, "unit": unit, "fettle": fettle, "peer": peer, "peer_value": peer_value}
    return told | {"ratio": round(ratio, 3), "limit": limit}


def machine(used: str) -> str:
    """What this one is. used: what of it was used."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "")
    return f"{platform.machine()} {model}, {used}"


def write_results(benchmark: str, rows: list[dict[str, Any]], used: str, variant: str = "") -> None:
    """Writes results/BENCHMARK[-VARIANT]-DATE.json. used: what of the machine was used."""
    today = date.today().isoformat()
    file = ROOT / "benchmarks" / "results" / f"{'-'.join(part for part in (benchmark, variant, today) if part)}.json"
    file.parent.mkdir(exist_ok=True)
    result = {"benchmark": benchmark, "date": today, "machine": machine(used), "rows": rows}
    file.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {file.relative_to(ROOT)}")
