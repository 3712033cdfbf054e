"""What a worker's optimizer holds, by the names of the model's parameters: whole ones, or ZeRO's pieces of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Share:
    """Elements `start` to `start + numel` of a flattened parameter, which lie at `at` of `flat`.

    flat: the tensor that the optimizer keeps its state by: the parameter itself, or ZeRO's vector of this worker's
    pieces of many.
    """

    name: str
    parameter: torch.nn.Parameter
    start: int
    numel: int
    flat: torch.Tensor
    at: int

    @property
    def is_whole(self) -> bool:
        """Whether every worker has all of the parameter, and the optimizer its state under it."""
        return self.flat is self.parameter

    @property
    def shape(self) -> torch.Size:
        """Of the whole parameter."""
        found: torch.Size = getattr(self.parameter, "ds_shape", self.parameter.shape)
        return found

    def of(self, vector: torch.Tensor) -> torch.Tensor:
        """This share of a vector that is as long as `flat`."""
        return vector.narrow(0, self.at, self.numel)


def shares_of(model: Any, optimizer: Any) -> list[Share]:
    """What the optimizer, DeepSpeed's or torch's, has of each parameter that it moves, in the model's order."""
    named = dict(model.named_parameters())
    stage = getattr(optimizer, "fp32_partitioned_groups_flat", None)
    if stage is not None:
        return list(_of_zero_3(named, optimizer))
    if hasattr(optimizer, "single_partition_of_fp32_groups"):
        return list(_of_zero_2(named, optimizer))
    moved = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    return [
        Share(name, parameter, 0, parameter.numel(), parameter, 0)
        for name, parameter in named.items()
        if id(parameter) in moved
    ]


def _of_zero_2(named: Mapping[str, torch.nn.Parameter], optimizer: Any) -> Iterator[Share]:
    """ZeRO 1 and 2: of each group one long vector, of which each worker has an equal part."""
    for name, parameter in named.items():
        mapping = getattr(parameter, "_hp_mapping", None)
        if mapping is not None:
            here, there = mapping.lp_fragment_address, mapping.hp_fragment_address
            flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            yield Share(name, parameter, here.start, here.numel, flat, there.start)


def _of_zero_3(named: Mapping[str, torch.nn.Parameter], optimizer: Any) -> Iterator[Share]:
    """ZeRO 3: each worker has an equal part of each parameter, of which the last are padded."""
    for name, parameter in named.items():
        if not parameter.requires_grad:
            continue
        told: Any = parameter
        group, at, numel = optimizer.grad_position[optimizer.get_param_id(parameter)]
        start = numel * torch.distributed.get_rank(told.ds_process_group)
        numel = min(numel, told.ds_numel - start)
        if numel > 0:
            yield Share(name, parameter, start, numel, optimizer.fp32_partitioned_groups_flat[group], at)
