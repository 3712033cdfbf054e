"""What a plan is for: this machine, GPUs by name, or the node types of a Ray launcher's cluster file."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from fettle.errors import UserError, did_you_mean

_PER_NODE = 8
GIB = 1 << 30
LEFT = 0.97
"""Of a machine's memory or a GPU's, what may be taken."""


@dataclass(frozen=True)
class Gpu:
    """memory: GiB that torch sees. tflops: of dense bf16 products (fp16 where it has no bf16), the vendor's figure.
    price: US dollars an hour, a guess of 2026 that `--price` overrides."""

    name: str
    memory: float
    tflops: float
    price: float


GPUS = {
    gpu.name.lower(): gpu
    for gpu in (
        Gpu("B200", 178.0, 2250, 5.5),
        Gpu("H200", 139.8, 989, 3.8),
        Gpu("H100", 79.2, 989, 3.0),
        Gpu("A100-80GB", 79.2, 312, 1.9),
        Gpu("A100", 39.4, 312, 1.4),
        Gpu("L40S", 44.4, 362, 1.2),
        Gpu("RTX6000-Ada", 47.4, 364, 1.0),
        Gpu("RTX4090", 23.6, 165, 0.5),
        Gpu("RTX3090", 23.6, 71, 0.3),
        Gpu("A10G", 22.1, 70, 0.9),
        Gpu("L4", 22.0, 121, 0.7),
        Gpu("V100", 15.8, 112, 0.9),
        Gpu("T4", 14.6, 65, 0.4),
    )
}
CPU_PRICE = 0.04
"""US dollars an hour for a core and its share of the memory; a guess as the GPUs' are."""
_INSTANCES = {  # of AWS, whose launcher files name GPUs by the machine they come in
    "p6-b200": ("B200", {"48xlarge": 8}),
    "p5en": ("H200", {"48xlarge": 8}),
    "p5e": ("H200", {"48xlarge": 8}),
    "p5": ("H100", {"4xlarge": 1, "48xlarge": 8}),
    "p4de": ("A100-80GB", {"24xlarge": 8}),
    "p4d": ("A100", {"24xlarge": 8}),
    "p3": ("V100", {"2xlarge": 1, "8xlarge": 4, "16xlarge": 8}),
    "g6e": ("L40S", {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g6": ("L4", {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g5": ("A10G", {"12xlarge": 4, "24xlarge": 4, "48xlarge": 8}),
    "g4dn": ("T4", {"12xlarge": 4, "metal": 8}),
}


@dataclass(frozen=True)
class Node:
    """A kind of machine, and how many there are. memory, disk: GiB, None where nobody says."""

    name: str
    count: int
    cpus: int | None
    memory: float | None
    gpus: int = 0
    gpu: Gpu | None = None
    disk: float | None = None


@dataclass(frozen=True)
class Machines:
    """Where a stage is to run. told: in the user's words."""

    told: str
    nodes: tuple[Node, ...]

    @property
    def num_gpus(self) -> int:
        """Of all nodes."""
        return sum(node.gpus * node.count for node in self.nodes)

    @property
    def gpu(self) -> Gpu | None:
        """The kind of GPU; of several the one with the least memory, which decides."""
        found = [node.gpu for node in self.nodes if node.gpu is not None]
        return min(found, key=lambda gpu: gpu.memory) if found else None

    @property
    def num_cpus(self) -> int | None:
        """Of all nodes; None where nobody says."""
        found = [None if node.cpus is None else node.cpus * node.count for node in self.nodes]
        return None if None in found else sum(count or 0 for count in found)

    @property
    def is_here(self) -> bool:
        """Whether it is this machine."""
        return self.told == "this machine"


def in_gib(size: float) -> str:
    """Bytes in words: `1.2 GiB`, `34 MiB`."""
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / 2**20:.0f} MiB"


def this_machine(out: Path = Path()) -> Machines:
    """The CPUs, memory, disk (of the folder `out`) and GPUs that are here."""
    existing = next(folder for folder in (out.resolve(), *out.resolve().parents) if folder.exists())
    name, count, memory = _gpus_here()
    gpu = replace(_gpu(name), memory=memory) if count else None
    node = Node(
        "this machine",
        1,
        os.cpu_count() or 1,
        psutil.virtual_memory().total / GIB,
        count,
        gpu,
        shutil.disk_usage(existing).free / GIB,
    )
    return Machines("this machine", (node,))


def machines_of(gpus: str) -> Machines:
    """`8xH100`: eight of them, on nodes of eight at most. Raises UserError where it is no such thing."""
    expected = f"COUNTxNAME, as in 8xH100, with a name of {', '.join(gpu.name for gpu in GPUS.values())}"
    found = re.fullmatch(r"(?:(\d+)\s*[xX×]\s*)?([A-Za-z][\w-]*)", gpus.strip())
    if found is None or found[1] == "0":
        raise UserError(f"'{gpus}' says no GPUs", field="--gpus", expected=expected)
    count, gpu = int(found[1] or 1), GPUS.get(found[2].lower())
    if gpu is None:
        guess = did_you_mean(found[2], [one.name for one in GPUS.values()])
        raise UserError(f"no GPU '{found[2]}' is known{guess}", field="--gpus", expected=expected)
    here = min(count, _PER_NODE)
    nodes = [Node(gpu.name, count // here, None, None, here, gpu)]
    if count % here:
        nodes.append(Node(gpu.name, 1, None, None, count % here, gpu))
    return Machines(f"{count}x{gpu.name}", tuple(nodes))


def machines_in(file: Path) -> Machines:
    """The nodes of a Ray launcher's cluster file at its largest. Raises UserError where it is none, or does not tell
    what its machines have."""
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror})", field="--on", expected="a Ray cluster file"
        ) from None
    except yaml.YAMLError as error:
        mark: Any = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark is not None else None
        raise UserError("not valid YAML", file=file, line=line, field="--on") from None
    if not isinstance(told, dict) or not isinstance(told.get("provider"), dict):
        raise UserError("no cluster file: it has no provider", file=file, field="--on", expected="a Ray cluster file")
    types = told.get("available_node_types")
    if not isinstance(types, dict) or not types:
        raise UserError(
            "it names no available_node_types, so nothing tells what its machines have",
            file=file,
            field="--on",
            fix="add available_node_types with resources: {CPU: N, GPU: N}, or say --gpus 8xH100",
        )
    head, most = told.get("head_node_type"), _whole(file, "max_workers", told.get("max_workers", 2))
    if head is not None and head not in types:
        guess = did_you_mean(str(head), list(types))
        raise UserError(
            f"head_node_type '{head}' is no node type{guess}", file=file, field="--on", expected=", ".join(types)
        )
    kinds = [_node(file, str(name), settings or {}) for name, settings in types.items()]
    nodes, left = [], most
    for node in sorted(kinds, key=lambda one: -one.gpus):  # of the workers that there may be at most, GPUs first
        settings: dict[str, Any] = types[node.name] or {}
        field = f"available_node_types.{node.name}.max_workers"
        workers = min(_whole(file, field, settings.get("max_workers", most)), left)
        left -= workers
        if (count := workers + (node.name == head)) > 0:
            nodes.append(replace(node, count=count))
    return Machines(str(file), tuple(nodes))


def _whole(file: Path, field: str, value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise UserError(f"{value!r} is no number of nodes", file=file, field=field, expected="a whole number")
    return value


def _node(file: Path, name: str, settings: dict[str, Any]) -> Node:
    resources = settings.get("resources") or {}
    instance = str((settings.get("node_config") or {}).get("InstanceType", ""))
    family, _, size = instance.partition(".")
    known, sizes = _INSTANCES.get(family, (None, {}))
    gpus = int(resources["GPU"] if "GPU" in resources else (sizes.get(size, 1) if known else 0))
    asked = next((key.partition(":")[2] for key in resources if str(key).startswith("accelerator_type:")), known)
    if not resources and known is None:
        raise UserError(
            "nothing tells what such a machine has",
            file=file,
            field=f"available_node_types.{name}.resources",
            expected="resources: {CPU: N, GPU: N, memory: BYTES}",
        )
    if gpus and (asked is None or asked.lower() not in GPUS):
        raise UserError(
            f"{gpus} GPUs of an unknown kind",
            file=file,
            field=f"available_node_types.{name}.resources",
            expected='"accelerator_type:NAME": 1 beside GPU, with a name of '
            + ", ".join(g.name for g in GPUS.values()),
        )
    cpus, memory = resources.get("CPU"), resources.get("memory")
    return Node(
        name,
        1,
        int(cpus) if cpus is not None else None,
        memory / GIB if memory is not None else None,
        gpus,
        GPUS[asked.lower()] if gpus and asked else None,
    )


def _gpus_here() -> tuple[str, int, float]:
    """(name, how many, GiB of each)."""
    import torch

    if not torch.cuda.is_available():
        return "", 0, 0.0
    found = torch.cuda.get_device_properties(0)
    return found.name, torch.cuda.device_count(), found.total_memory / GIB


def _gpu(name: str) -> Gpu:
    """The known one that a driver's name is of; one of the least that is known, by that name, where it is none."""
    plain = name.lower().replace(" ", "").replace("-", "")
    found = [gpu for key, gpu in GPUS.items() if key.replace("-", "") in plain]
    return max(found, key=lambda gpu: len(gpu.name)) if found else Gpu(name, 0.0, 65, 1.0)
