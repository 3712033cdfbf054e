"""Which arithmetic the forward pass uses, and on which instructions it ran."""

from __future__ import annotations

import platform

import torch

from fettle.recipe.cluster import ClusterSpec, Precision

LOW: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""The types that a forward pass is autocast to."""


def frozen_dtype(precision: Precision, zero: int = 0) -> torch.dtype:
    """Of frozen weights: they may lie in bf16 where the arithmetic is bf16 anyway; ZeRO 3 wants one type (trl#6089)."""
    return torch.bfloat16 if precision == "bf16" and zero < 3 else torch.float32


def resolve_precision(cluster: ClusterSpec) -> Precision:
    """By default bf16 on GPUs and on CPUs that multiply it in hardware (1.6 times fp32's speed, train.md 0b)."""
    if cluster.precision is not None:
        return cluster.precision
    return "bf16" if cluster.gpus_per_worker or has_fast_bf16() else "fp32"


def has_fast_bf16() -> bool:
    """Whether this CPU has AVX512_BF16 or AMX."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def instruction_set() -> str:
    """The widest vector instructions torch uses here; sums come out differently with others."""
    return f"{platform.machine()}/{torch.backends.cpu.get_cpu_capability()}"
