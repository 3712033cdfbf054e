"""10,000 published versions of one name, and 10,000 names of one version: what looking them up takes, in process and as
a command. (1,000 runs: tracking.py.)

.venv/bin/python benchmarks/registry.py [--versions 10000]
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fettle.pipeline.mirror import Told, pending_names
from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import Reference
from fettle.serving.traffic import _running
from house_format import row, write_results
from tracking import FETTLE, seconds

BOUND_S, LIST_BOUND_S = 1.0, 5.0


def publish(root: Path, name: str, number: int) -> None:
    """So many versions of a name, as `FolderRegistry.publish` leaves them, but for the weights."""
    versions = root / name / "versions"
    versions.mkdir(parents=True)
    told: dict[str, Any] = {"name": name, "size": 1 << 20, "published": "2026-11-30T00:00:00+00:00", "kind": "adapter"}
    told |= {"digest": "sha256:" + "a" * 64, "base": {"path": "/models/base", "digest": "sha256:" + "b" * 64}}
    for one in range(1, number + 1):
        (versions / str(one)).mkdir()
        (versions / f"{one}.json").write_text(json.dumps(told | {"number": one}, indent=2))
    before = list(range(max(1, number - 20), number))
    aliases = {"production": {"now": number, "before": before}, "candidate": {"now": number, "before": []}}
    (root / name / "aliases.json").write_text(json.dumps(aliases, indent=2))
    (root / ".registry").touch()


def tell(root: Path, name: str) -> None:
    """As if a tracker had been told of a name's only version."""
    (root / name / "tracker").mkdir()
    told = Told("http://mlflow.example", 1, aliases={"production": 1, "candidate": 1})
    (root / name / "tracker" / "told.json").write_text(json.dumps(vars(told)))


def first_and_again(root: Path, look: Callable[[FolderRegistry], object], times: int = 9) -> tuple[float, float]:
    """(seconds of the first look of a process's registry, of the next one): of a few the least, as what else a machine
    does only adds."""
    firsts, nexts = list[float](), list[float]()
    for _ in range(times):
        registry = FolderRegistry(root)
        for found in (firsts, nexts):
            began = time.perf_counter()
            look(registry)
            found.append(time.perf_counter() - began)
    return min(firsts), min(nexts)


def poll(registry: FolderRegistry) -> None:
    """All that an endpoint's replica and its ingress look at, twice a second."""
    registry.state("adapter")
    registry.pinned()
    _running([registry])


def bounded(what: str, value: float, bound: float = BOUND_S) -> dict[str, Any]:
    return row(what, "s", value, "bound", bound, bound / value, limit=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--versions", type=int, default=10_000)
    number = parser.parse_args().versions
    rows = []
    with TemporaryDirectory() as folder:
        one, many = Path(folder, "one"), Path(folder, "many")
        publish(one, "support", number)
        for place in range(number):
            publish(many, f"name-{place}", 1)
            tell(many, f"name-{place}")
        looks: list[tuple[str, Path, Callable[[FolderRegistry], object]]] = [
            ("find by alias", one, lambda there: there.find(Reference("support"))),
            ("find by number", one, lambda there: there.find(Reference("support", None, number // 2))),
            ("versions()", one, lambda there: there.versions("support")),
            ("kind()", one, lambda there: there.kind("support")),
            ("what serving polls", one, poll),
            ("find by alias", many, lambda there: there.find(Reference("name-7"))),
            ("names()", many, lambda there: there.names()),
            ("what serving polls", many, poll),
        ]
        for what, root, look in looks:
            of = f"{number:,} versions of one name" if root == one else f"{number:,} names"
            first, again = first_and_again(root, look)
            rows += [bounded(f"{what}, {of}", first), bounded(f"{what}, {of}, again", again)]
        for what, words, root in (
            ("fettle adapters", ["adapters"], one),
            ("fettle adapters", ["adapters"], many),
            ("fettle promote", ["promote", f"support:{number // 2}", "--alias", "trial"], one),
        ):
            of = f"{number:,} versions of one name" if root == one else f"{number:,} names"
            taken = seconds([str(FETTLE), *words, "--registry", str(root)], 3)
            rows.append(bounded(f"{what}, {of}", taken, LIST_BOUND_S))
        pending, _ = first_and_again(many, lambda there: list(pending_names(there.root)))
        rows.append(bounded(f"what a tracker has not been told, {number:,} names", pending, LIST_BOUND_S))
    for told in rows:
        print(f"{told['what']}: {told['fettle']:.3f} {told['unit']} (at most {told['peer_value']:g})")
    write_results("registry", rows, "one process")


if __name__ == "__main__":
    main()
