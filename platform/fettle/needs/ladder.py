"""The largest model that fits, for each kind of adapter: a ladder of well-known shapes, tried from the top."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from fettle.models.precision import has_fast_bf16
from fettle.needs.machines import GIB, LEFT, Machines
from fettle.needs.memory import HOST_LEVEL, Moment, Setup, moments, peak
from fettle.needs.rates import Estimate, Rate, estimate, training_flops
from fettle.needs.shape import Shape, shape_of
from fettle.needs.trace import Micro, config_text
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import ClusterSpec, Precision

LENGTH, BATCH = 2048, 16384
"""Tokens of a row, and of a step over all workers, that the ladder is tried with."""
_SHAPES: dict[str, tuple[int, int, int, int, int, int, bool]] = {
    # hidden, layers, heads, key-value heads, feed-forward, vocabulary, tied: of each model's config.json
    "Qwen2.5-0.5B": (896, 24, 14, 2, 4864, 151936, True),
    "Llama-3.2-1B": (2048, 16, 32, 8, 8192, 128256, True),
    "Qwen2.5-1.5B": (1536, 28, 12, 2, 8960, 151936, True),
    "Llama-3.2-3B": (3072, 28, 24, 8, 8192, 128256, True),
    "Qwen2.5-7B": (3584, 28, 28, 4, 18944, 152064, False),
    "Llama-3.1-8B": (4096, 32, 32, 8, 14336, 128256, False),
    "Qwen2.5-14B": (5120, 48, 40, 8, 13824, 152064, False),
    "Qwen2.5-32B": (5120, 64, 40, 8, 27648, 152064, False),
    "Llama-3.1-70B": (8192, 80, 64, 8, 28672, 128256, False),
    "Llama-3.1-405B": (16384, 126, 128, 8, 53248, 128256, False),
}
KINDS = {
    "full": AdapterSpec(kind="full"),
    "lora": AdapterSpec(kind="lora"),
    "lora, bits 4": AdapterSpec(kind="lora", bits=4),
}


@dataclass(frozen=True)
class Rung:
    """The largest model that fits with a kind of adapter. model: None where even the smallest does not. moment: of a
    worker, at its most. estimate: of a step of BATCH tokens."""

    kind: str
    model: str | None = None
    weights: int = 0
    cluster: ClusterSpec | None = None
    accumulate: int = 1
    moment: Moment | None = None
    estimate: Estimate | None = None

    @property
    def sets(self) -> dict[str, str]:
        """What a recipe sets for it."""
        if self.cluster is None:
            return {}
        adapter = {"full": "full", "lora": "lora"}.get(self.kind, "{kind: lora, bits: 4}")
        keys = {key: str(value) for key, value in self.cluster.model_dump(exclude_defaults=True).items()}
        return {"adapter": adapter} | {f"cluster.{key}": value.lower() for key, value in keys.items()}


def ladder(machines: Machines, rates: Sequence[Rate] = ()) -> list[Rung]:
    """For each kind of adapter the largest model that trains there, with gradient checkpointing, rows of LENGTH tokens
    one at a time and steps of BATCH tokens."""
    return [_largest(kind, adapter, machines, rates) for kind, adapter in KINDS.items()]


def _largest(kind: str, adapter: AdapterSpec, machines: Machines, rates: Sequence[Rate]) -> Rung:
    for name in reversed(_SHAPES):
        shape = _shape(name)
        for cluster in _clusters(adapter, machines):
            precision: Precision = "bf16" if cluster.gpus_per_worker or has_fast_bf16() else "fp32"
            micro = Micro(1, LENGTH, precision, checkpointing=True, logits=False)
            heldout = replace(micro, checkpointing=False)
            accumulate = max(1, BATCH // LENGTH // cluster.workers)
            setup = Setup(adapter, cluster, precision, micro, heldout, accumulate=accumulate)
            if _least(shape, setup) > _room(machines, cluster):
                continue
            found = moments(shape, setup)
            if not _fits(found, cluster, machines):
                continue
            tokens = BATCH / cluster.workers
            flops = training_flops(shape, adapter, tokens, LENGTH, checkpointing=True)
            each = estimate(flops, "train", cluster, precision, machines.gpu, rates)
            return Rung(kind, name, shape.weights, cluster, accumulate, peak(found), each)
    return Rung(kind)


def _clusters(adapter: AdapterSpec, machines: Machines) -> list[ClusterSpec]:
    """Worker groups from the fastest to the one that takes the least memory."""
    gpus = machines.num_gpus
    if not gpus:
        return [ClusterSpec(workers=1, zero=0, cpus_per_worker=machines.num_cpus or 1)]
    zeros: tuple[Literal[0, 2, 3], ...] = (0, 2) if adapter.bits is not None else (0, 2, 3)
    plain = [ClusterSpec(workers=gpus, zero=zero, gpus_per_worker=1) for zero in zeros if zero == 0 or gpus > 1]
    if adapter.is_beside:
        return plain
    return [*plain, ClusterSpec(workers=gpus, zero=3 if gpus > 1 else 2, gpus_per_worker=1, offload=True)]


def _least(shape: Shape, setup: Setup) -> float:
    """Of the weights alone, before the model is looked at more closely."""
    bits = 4 if setup.adapter.bits is not None else (16 if setup.adapter.is_beside else 32)
    return shape.weights * bits / 8 / (setup.cluster.workers if setup.cluster.zero == 3 else 1)


def _room(machines: Machines, cluster: ClusterSpec) -> float:
    if cluster.gpus_per_worker and machines.gpu is not None:
        return machines.gpu.memory * GIB * LEFT
    return min((node.memory for node in machines.nodes if node.memory is not None), default=0.0) * GIB * LEFT


def _fits(found: list[Moment], cluster: ClusterSpec, machines: Machines) -> bool:
    level = 0 if cluster.gpus_per_worker else HOST_LEVEL
    if peak(found).total + level > _room(machines, cluster):
        return False
    hosts = [node for node in machines.nodes if node.memory is not None]
    if not cluster.gpus_per_worker or not hosts:  # of machines that are not here nobody says what the host has
        return True
    wanted = max(moment.host_total for moment in found)
    return all(wanted * node.gpus <= (node.memory or 0) * GIB * LEFT for node in hosts)


@functools.cache
def _shape(name: str) -> Shape:
    from transformers import LlamaConfig

    hidden, layers, heads, kv_heads, inner, vocabulary, tied = _SHAPES[name]
    config = LlamaConfig(
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=inner,
        vocab_size=vocabulary,
        tie_word_embeddings=tied,
        max_position_embeddings=8192,
        dtype="bfloat16",
    )
    return shape_of(config_text(config))
