"""Many adapters over one base: fettle's endpoint beside vLLM's own server, in one run.

    python benchmarks/serve_adapters.py [--clients 8 32] [--seconds S]

64 LoRA adapters over the bundled model, all loaded by both, 8 of them in a batch at most. Clients ask for 1, 8 or all
of them, each as often (uniform), or the n-th 1/n as often as the first (Zipf); greedy requests of 24 tokens. Then, with
nobody else asking: the first answer of an adapter that was never loaded, and a name's next version from the flip to its
first answer. fettle finds both in its registry by itself; vLLM's server is told of each file, which is in its times.
Both sides have one engine of one thread in float32, are up at the same time, and idle while the other is measured, in
turns.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from fettle.cluster import ray_session
from fettle.engine.env import EngineOptions
from fettle.models.base import BUNDLED
from fettle.registry.folder import FolderRegistry
from fettle.serving.app import serve
from fettle.serving.front import guard_proxies
from fettle.serving.port import free_port
from house_format import row, write_results
from serve import p99
from serve_sides import vllm_server
from serving_case import TOKENS, Seen, ask, clients, make_adapters

ADAPTERS, SLOTS, ROUNDS, FRESH = 64, 8, 3, 8
NAMED, SWAPPED_S = "adapter-000", 60
MIXES = ((1, "uniform"), (8, "uniform"), (8, "zipf"), (64, "uniform"), (64, "zipf"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--seconds", type=float, default=8.0, help="of each of three rounds, for each side")
    told = parser.parse_args()
    options = EngineOptions(
        dtype="float32", max_num_seqs=64, max_model_len=256, threads=1, max_loras=SLOTS, max_adapters=ADAPTERS
    )
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        adapters = make_adapters(Path(folder) / "adapters", ADAPTERS + 2 * FRESH)
        registry = FolderRegistry(Path(folder) / "registry")
        for one in adapters[: ADAPTERS + FRESH]:
            registry.publish(one.name, one, alias="production")
        more: dict[str, Any] = {"registry": registry.root, "replicas": 1, "options": options, "places": ADAPTERS}
        guard_proxies()  # as `fettle serve`, before there is a Ray
        with (
            ray_session(),
            vllm_server(BUNDLED["tiny"], options, adapters[:ADAPTERS]) as theirs,
            serve("tiny", port=free_port(), **more, say=print) as at,
        ):
            sides = {"fettle": at.url, "vLLM": theirs}
            for url in sides.values():
                for one in adapters[:ADAPTERS]:
                    answer(url, one.name)
                run(url, 8, 5.0, asks(ADAPTERS, "uniform"))
            for count in told.clients:
                for many, mix in MIXES:
                    found: dict[str, list[list[Seen]]] = {side: [] for side in sides}
                    for _ in range(ROUNDS):
                        for side, url in sides.items():
                            found[side].append(run(url, count, told.seconds, asks(many, mix)))
                    rows += compared(f"{many} adapter{'s' * (many > 1)}, {mix}, {count} clients", told.seconds, found)
            cold, flipped = adapters[ADAPTERS : ADAPTERS + FRESH], adapters[ADAPTERS + FRESH :]
            rows += [
                later("a cold adapter's first answer", cold, lambda one: answer(at.url, one.name).seconds, theirs),
                later(
                    "a hot swap, until its first answer",
                    flipped,
                    lambda one: swap(at.url, registry, one),
                    theirs,
                    NAMED,
                ),
            ]
    write_results("serve_adapters", rows, "one engine thread, clients on the same cores")


def asks(many: int, mix: str) -> Callable[[int], str]:
    """Which adapter the n-th request is for."""
    draw, weights = random.Random(0), [1 / (1 + number) if mix == "zipf" else 1.0 for number in range(many)]
    drawn = draw.choices(range(many), weights, k=4096)
    return lambda number: f"adapter-{drawn[number % len(drawn)]:03d}"


def run(url: str, count: int, seconds: float, name_of: Callable[[int], str]) -> list[Seen]:
    """Requests that ended in that time. Raises SystemExit where one failed."""
    with clients(url, count, name_of) as seen:
        time.sleep(seconds)
        ended = list(seen)
    if failed := [one for one in ended if not one.is_whole]:
        raise SystemExit(f"{len(failed)} of {len(ended)} requests failed: {failed[0]}")
    return ended


def answer(url: str, name: str) -> Seen:
    """One request of 24 tokens. Raises SystemExit where it fails."""
    seen = ask(requests.Session(), url, name, False)
    if not seen.is_whole:
        raise SystemExit(f"{name}: {seen}")
    return seen


def swap(url: str, registry: FolderRegistry, adapter: Path) -> float:
    """Seconds from the flip of an alias to another version until the first answer of that version has come."""
    version = registry.publish(NAMED, adapter)
    began = time.monotonic()
    registry.point(NAMED, "production", version.number)
    while answer(url, NAMED).version != f"{NAMED}:{version.number}":
        if time.monotonic() > began + SWAPPED_S:
            raise SystemExit(f"{NAMED}:{version.number} answers nothing after {SWAPPED_S} s")
    return time.monotonic() - began


def later(
    what: str, adapters: list[Path], ours: Callable[[Path], float], theirs: str, name: str = ""
) -> dict[str, Any]:
    """Medians in milliseconds: fettle's, and what vLLM's server takes to be told of each file and answer with it, in
    place of what it has under that name or as one more."""

    def its(adapter: Path) -> float:
        began = time.monotonic()
        told = {"lora_name": name or adapter.name, "lora_path": str(adapter), "load_inplace": bool(name)}
        requests.post(f"{theirs}/v1/load_lora_adapter", json=told, timeout=60).raise_for_status()
        answer(theirs, name or adapter.name)
        return time.monotonic() - began

    found = [1000 * statistics.median(map(side, adapters)) for side in (ours, its)]
    print(f"{what:<34} {found[0]:7,.0f} ms, vLLM's server {found[1]:7,.0f}", flush=True)
    return row(what, "ms", found[0], "vLLM's server", found[1], found[1] / found[0], limit=False)


def compared(what: str, seconds: float, found: dict[str, list[list[Seen]]]) -> list[dict[str, Any]]:
    rate = {side: statistics.median(len(one) for one in told) / seconds * TOKENS for side, told in found.items()}
    late = {side: [p99([one.seconds for one in part]) for part in told] for side, told in found.items()}
    slow = {side: 1000 * statistics.median(told) for side, told in late.items()}
    ratio = rate["fettle"] / rate["vLLM"]
    print(f"{what:<34} {rate['fettle']:7,.0f} tokens/s, vLLM's server {rate['vLLM']:7,.0f}: {ratio:.2f}", flush=True)
    return [
        row(f"{what}: tokens", "a second", rate["fettle"], "vLLM's server", rate["vLLM"], ratio, limit=False),
        row(
            f"{what}: 99th percentile of a request",
            "ms",
            slow["fettle"],
            "vLLM's server",
            slow["vLLM"],
            slow["vLLM"] / slow["fettle"],
            limit=False,
        ),
    ]


if __name__ == "__main__":
    main()
