"""The endpoint under load: versions published, replicas and engines killed, many adapters in few places.

    python benchmarks/serving_faults.py [swap] [kill] [alone] [zipf] [--quick]

swap: 16 clients, half of them streaming, for a minute over two replicas, 20 versions published and promoted meanwhile;
every answer is compared with what PEFT gives for the version that its header names. kill: a replica's process, then an
engine's, with two replicas. alone: the only replica. zipf: 200 adapters, 8 places.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import requests
from ray import serve as ray_serve

from fettle.cluster import ray_session
from fettle.registry.folder import FolderRegistry
from fettle.serving.app import APP, serve
from fettle.serving.front import guard_proxies
from fettle.serving.port import free_port
from house_format import row, write_results
from serving_case import Seen, answers_of, ask, clients, make_adapters, titled

CLIENTS, REPLICA, ENGINE = 16, "ray::ServeReplica:fettle:model", "VLLM::EngineCore"
LIVE_S = 2.0
_RECOVERY_S = 180


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("which", nargs="*", default=["swap", "kill", "alone", "zipf"])
    parser.add_argument("--quick", action="store_true", help="10 s where the figures want 60")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    guard_proxies()  # as `fettle serve`, before there is a Ray
    with ray_session(num_cpus=4), tempfile.TemporaryDirectory() as folder:
        for which in options.which:
            rows += {"swap": swap, "kill": kill, "alone": alone, "zipf": zipf}[which](Path(folder), options.quick)
    for one in rows:
        print(f"{one['what']:<66} {one['fettle']:>9g} {one['unit']:<9} {one['peer']}: {one['peer_value']:g}")
    write_results("serving_faults", rows, "2 replicas of one thread, clients on the same cores")


def _count(what: str, count: int, most: int = 0) -> dict[str, Any]:
    return row(what, "requests", count, "at most", most, 1, limit=True)


def _time(what: str, unit: str, value: float, most: float = 0) -> dict[str, Any]:
    return row(
        what, unit, round(value, 2), "at most" if most else "no limit", most, most / max(value, 1e-3), limit=True
    )


def swap(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """No request fails, none is answered by another version than it says, and no old one long after a flip."""
    flips, seconds = (4, 12.0) if is_quick else (20, 60.0)
    adapters = make_adapters(folder / "swap", flips + 1)
    wanted = {f"support:{1 + number}": tokens for number, tokens in enumerate(answers_of(adapters))}
    assert len(set(wanted.values())) == len(wanted), "versions have to answer differently"
    registry = FolderRegistry(folder / "swap-registry")
    registry.publish("support", adapters[0], alias="production")
    flipped: list[float] = []
    served = serve("tiny", port=free_port(), registry=registry.root, replicas=2, say=print)
    with served as at, clients(at.url, CLIENTS, lambda _: "support") as seen:
        for adapter in adapters[1:]:
            time.sleep(seconds / (flips + 1))
            version = registry.publish("support", adapter)
            registry.point("support", "production", version.number)
            flipped.append(time.monotonic())
        time.sleep(seconds / (flips + 1))
    failed = [one for one in seen if not one.is_whole]
    wrong = [one for one in seen if one.is_whole and one.tokens != wanted.get(one.version)]
    late = max(_stale(seen, number, at_s) for number, at_s in enumerate(flipped, start=1))
    for one in (failed + wrong)[:5]:
        print("  ", one)
    return [
        _count(f"swap: failed or cut, of {len(seen)} requests, {flips} flips", len(failed)),
        _count("swap: answered by another version than their header names", len(wrong)),
        _time("swap: last request that an old version answered, after its flip", "s", late, LIVE_S),
        _median("swap", seen),
    ]


def _stale(seen: list[Seen], version: int, flipped: float) -> float:
    """Seconds from a flip until the last request that began after it and an older version answered."""
    old = [one.began - flipped for one in seen if one.version and int(one.version.split(":")[1]) <= version]
    return max([one for one in old if one > 0], default=0.0)


def kill(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """With two replicas only what was in flight may fail; what is not streamed is answered by the other."""
    rows = []
    with serve("tiny", port=free_port(), replicas=2, say=print) as at:
        for what, name in (("a replica", REPLICA), ("an engine", ENGINE)):
            with clients(at.url, CLIENTS, lambda _: "tiny") as seen:
                time.sleep(3)
                died = time.monotonic()
                titled(name)[0].kill()
                _until(lambda: _warm() < 2)
                _until(lambda: _warm() == 2)
                recovered = time.monotonic() - died
            failed = [one for one in seen if not one.is_whole]
            plain = [one for one in failed if not one.is_stream]
            late = [one for one in failed if one.began > died + 1]
            print(f"  {what}: {Counter((one.status, one.is_stream) for one in failed)}")
            rows += [
                _count(f"kill {what}: streams cut, of {len(seen)} requests", len(failed) - len(plain), CLIENTS),
                _count(f"kill {what}: others that failed", len(plain)),
                _count(f"kill {what}: failed that began a second later", len(late)),
                _time(f"kill {what}: longest request", "s", max(one.seconds for one in seen), 60),
                _time(f"kill {what}: until there are two warm ones again, under this load", "s", recovered),
            ]
    return rows


def _warm() -> int:
    """Replicas that are asked."""
    states = ray_serve.status().applications[APP].deployments["model"].replica_states
    return int(states.get("RUNNING", 0))


def alone(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """The only replica dies: whoever asks meanwhile is told to come back, and nobody hangs."""
    with serve("tiny", port=free_port(), replicas=1, say=print) as at:
        with clients(at.url, CLIENTS, lambda _: "tiny") as seen:
            time.sleep(3)
            died = time.monotonic()
            titled(REPLICA)[0].kill()
            _until(lambda: bool(seen) and seen[-1].is_whole and seen[-1].began > died + 1)
            back = time.monotonic() - died
        again = ask(requests.Session(), at.url, "tiny", False)
    failed = [one for one in seen if not one.is_whole]
    other = [one for one in failed if one.status != 503 and not one.is_stream]
    longest = max(one.seconds for one in seen)
    print(f"  alone: {Counter((one.status, one.is_stream) for one in failed)}; then {again.status}")
    return [
        _count("alone: plain requests that got neither answer nor 503", len(other)),
        _time("alone: longest wait for an answer or a 503", "s", longest, 30),
        _time("alone: from the kill to the first answer", "s", back),
    ]


def zipf(folder: Path, is_quick: bool) -> list[dict[str, Any]]:
    """Many adapters share few places."""
    count, places, seconds = (40, 8, 10.0) if is_quick else (200, 8, 60.0)
    adapters = make_adapters(folder / "zipf", count)
    registry = FolderRegistry(folder / "zipf-registry")
    names = [f"tenant-{number:03d}" for number in range(count)]
    for name, adapter in zip(names, adapters, strict=True):
        registry.publish(name, adapter, alias="production")
    weights = [1 / (1 + number) for number in range(count)]
    with serve("tiny", port=free_port(), registry=registry.root, places=places, replicas=1, say=print) as at:
        draw = random.Random(0)
        with clients(at.url, 6, lambda _: draw.choices(names, weights)[0]) as seen:
            time.sleep(seconds)
        session = requests.Session()
        cold = [ask(session, at.url, name, False) for name in names[-places * 3 :]]
        warm = [ask(session, at.url, names[-1], False) for _ in range(10)]
    failed = [one for one in [*seen, *cold] if not one.is_whole]
    for one in failed[:3]:
        print("  ", one)
    used = len({one.version for one in seen})
    load = statistics.median(one.seconds for one in cold) - statistics.median(one.seconds for one in warm)
    return [
        _count(f"zipf: failed of {len(seen)} to {used} of {count} adapters, {places} places", len(failed)),
        _time("zipf: a cold adapter's first answer takes longer by", "ms", 1000 * load),
        _median("zipf", seen),
    ]


def _median(what: str, seen: list[Seen]) -> dict[str, Any]:
    median = statistics.median(one.seconds for one in seen if one.is_whole)
    return _time(f"{what}: median request of 24 tokens", "ms", 1000 * median)


def _until(is_so: Any) -> float:
    began = time.monotonic()
    while not is_so():
        if time.monotonic() > began + _RECOVERY_S:
            raise SystemExit(f"not within {_RECOVERY_S} s")
        time.sleep(0.1)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
