"""How long a stage takes and what that costs: by what runs have measured, else by a guess that says so.

Each run writes down what its stages took, a line a stage, in `~/.cache/fettle/rates.json` (below XDG_CACHE_HOME where
that is set): floating-point operations a worker's step does, and its seconds. A plan takes the measurement of the same
kind on the same device that is nearest in size. Nothing that a run computes depends on it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fettle.artifact import replace_text
from fettle.needs.machines import Gpu
from fettle.needs.shape import Shape, trained_weights
from fettle.output import cache_folder
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec, Precision

Kind = Literal["train", "rl"]
_MOST = 200
_ON_GPU = 0.35
"""Share of a GPU's dense rate that training reaches: 0.3 to 0.5 is told of well-tuned runs; a guess until measured."""
_ON_CPU: dict[Precision, float] = {"fp32": 50e9, "bf16": 80e9, "fp16": 50e9}
"""Operations a second of a core with AVX-512, from 1,698 and 2,778 tokens a second of 5.8 million weights."""
_GENERATED = 5.0
"""How much dearer an operation is in generating, token by token, than in training; a guess until measured."""


@dataclass(frozen=True)
class Rate:
    """Something measured. device: as `device_name`. flops: of a worker's step; of an rl stage's iteration where kind is
    rl. seconds: of that. when: a date."""

    device: str
    kind: Kind
    precision: Precision
    workers: int
    flops: float
    seconds: float
    when: str


@dataclass(frozen=True)
class Estimate:
    """seconds: of a step. told: where the figure is from, in words."""

    seconds: float
    told: str


def device_name(cluster: ClusterSpec, gpu: Gpu | None) -> str:
    """What a worker computes on."""
    if cluster.gpus_per_worker:
        return gpu.name if gpu is not None else "GPU"
    return f"{cluster.cpus_per_worker} CPU core{'s' if cluster.cpus_per_worker > 1 else ''}"


def training_flops(
    shape: Shape, adapter: AdapterSpec, tokens: float, length: float, *, checkpointing: bool, passes: float = 0.0
) -> float:
    """Operations of learning from so many tokens in texts of a length: 2 for each weight and token on the way there, 2
    on the way back for what lies below, 2 for each weight that is trained, 2 to compute a layer again (Kaplan et al.
    2020, arXiv:2001.08361, table 1; its attention term too). passes: more ways there, of references and the like."""
    share = min(1.0, trained_weights(shape, adapter) / shape.weights)
    each = 2 * (2 + share + checkpointing + passes)
    attention = 2 * shape.layers * shape.hidden * length * (3 + checkpointing + passes)
    return tokens * (each * shape.active + attention)


def generating_flops(shape: Shape, tokens: float) -> float:
    """Of generating so many tokens, in operations of training that take as long."""
    return 2 * shape.active * tokens * _GENERATED


def estimate(
    flops: float, kind: Kind, cluster: ClusterSpec, precision: Precision, gpu: Gpu | None, rates: Sequence[Rate]
) -> Estimate:
    """Of a worker's step of so many operations."""
    device = device_name(cluster, gpu)
    same = [r for r in rates if (r.device, r.kind, r.precision) == (device, kind, precision)]
    if same:
        near = min(same, key=lambda r: (abs(math.log(r.flops / flops)), abs(r.workers - cluster.workers)))
        return Estimate(near.seconds * flops / near.flops, f"as measured on {near.when}")
    if cluster.gpus_per_worker:
        tflops = gpu.tflops if gpu is not None else 65
        return Estimate(flops / (tflops * 1e12 * _ON_GPU * (1 if precision != "fp32" else 0.25)), "a guess")
    return Estimate(flops / (_ON_CPU[precision] * cluster.cpus_per_worker), "a guess")


def rates_file() -> Path:
    """Where measured rates lie."""
    return cache_folder("rates.json")


def read_rates(file: Path | None = None) -> list[Rate]:
    """Those that runs have measured; none where there are none, or where the file is no such file."""
    try:
        return [Rate(**row) for row in json.loads((file or rates_file()).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def add_rates(new: Sequence[Rate], file: Path | None = None) -> None:
    """Takes the place of what was measured of the same kind, device and size (to a factor of two); what cannot be
    written is not."""
    file = file or rates_file()
    kept = {_size(rate): rate for rate in [*read_rates(file), *new]}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_text(file, json.dumps([asdict(rate) for rate in list(kept.values())[-_MOST:]], indent=1))
    except OSError:
        pass


def _size(rate: Rate) -> tuple[str, str, str, int, int]:
    return rate.device, rate.kind, rate.precision, rate.workers, round(math.log2(max(1.0, rate.flops)))
