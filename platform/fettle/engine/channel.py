"""Weights from a learner's memory into an engine's: a group for each engine, over nccl on GPUs and gloo on CPUs.

A group of its own for each engine, since a collective of many waits for the one that died: here only that engine's way
ends, and its successor gets a new one. The learner is rank 0, the engine's workers (one for each of its GPUs) are
the others.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import BroadcastOptions, PrefixStore, ProcessGroupGloo, TCPStore

from fettle.engine.env import device

Weights = Mapping[str, torch.Tensor]
"""Named as in a checkpoint, on the CPU, contiguous; a tied one under each of its names."""


class Channel:
    """The learner's end. host: this node's address, as engines reach it. gpu: index of the one that nccl sends from.
    ranks: GPUs of the engine. timeout_s: for it to meet the learner, and for each tensor."""

    def __init__(self, host: str, ranks: int, timeout_s: float, gpu: int = 0) -> None:
        self._ranks, self._timeout_s, self._gpu = ranks, timeout_s, gpu
        self._group: Any = None
        self.meeting: dict[str, Any]
        if device() == "cpu":
            self._store = _store(host, 0, timeout_s, is_first=True)
            self.meeting = {"host": host, "port": self._store.port, "timeout_s": timeout_s}
        else:
            from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary

            self._id = bytes(NCCLLibrary().ncclGetUniqueId().internal)
            self.meeting = {
                "nccl_unique_id_b64": base64.b64encode(self._id).decode("ascii"),
                "rank_offset": 1,
                "world_size": 1 + ranks,
                "packed": True,
            }

    def send(self, weights: Weights) -> None:
        """To the engine, which was told of `incoming`. Raises RuntimeError where it has gone."""
        if device() == "cpu":
            self._group = self._group or _gloo(self._store, 0, self._timeout_s)
            for weight in weights.values():
                _broadcast(self._group, weight)
            return
        self._send_over_nccl(weights)

    def close(self) -> None:
        """Ends a broadcast that goes on, too."""
        if device() == "gpu" and self._group is not None:
            self._group.destroy()
        self._group = None

    def _send_over_nccl(self, weights: Weights) -> None:
        """As vLLM's own `NCCLTrainerWeightTransferEngine`, with one call to the engine where that makes four."""
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group
        from vllm.distributed.weight_transfer.packed_tensor import packed_nccl_broadcast_producer

        with torch.accelerator.device_index(self._gpu):  # each thread begins with the first
            if self._group is None:
                self._group = uid_init_process_group(self._id, 0, 1 + self._ranks, self._gpu)
            packed_nccl_broadcast_producer(
                iterator=iter(weights.items()),
                group=self._group,
                src=0,
                post_iter_func=lambda item: item[1].to(f"cuda:{self._gpu}"),
            )
            torch.accelerator.synchronize()


def incoming(weights: Weights) -> dict[str, Any]:
    """What an engine has to know of weights before they come. Of nccl no checksum is looked at."""
    told: dict[str, Any] = {
        "names": list(weights),
        "dtype_names": [str(one.dtype).removeprefix("torch.") for one in weights.values()],
        "shapes": [list(one.shape) for one in weights.values()],
    }
    if device() == "cpu":
        found = 0
        for weight in weights.values():
            found = zlib.crc32(_bytes(weight), found)
        told["checksum"] = found
    return told


def join(host: str, port: int, timeout_s: float) -> Any:
    """The engine's end, over gloo. Raises RuntimeError where the learner is not there in time."""
    return _gloo(_store(host, port, timeout_s, is_first=False), 1, timeout_s)


def receive(
    group: Any, names: Sequence[str], dtypes: Sequence[str], shapes: Sequence[Sequence[int]], checksum: int
) -> Iterator[tuple[str, torch.Tensor]]:
    """The weights, one after the other. Raises ValueError at the end where they are not what was sent."""
    found = 0
    for name, dtype, shape in zip(names, dtypes, shapes, strict=True):
        weight = torch.empty(tuple(shape), dtype=getattr(torch, dtype))
        _broadcast(group, weight)
        found = zlib.crc32(_bytes(weight), found)
        yield name, weight
    if found != checksum:
        raise ValueError(f"what was received has the checksum {found:08x}, and was sent with {checksum:08x}")


def _store(host: str, port: int, timeout_s: float, *, is_first: bool) -> TCPStore:
    return TCPStore(host, port, 2, is_first, timeout=timedelta(seconds=timeout_s), wait_for_workers=False)


def _gloo(store: TCPStore, rank: int, timeout_s: float) -> Any:
    return ProcessGroupGloo(PrefixStore("weights", store), rank, 2, timedelta(seconds=timeout_s))


def _broadcast(group: Any, weight: torch.Tensor) -> None:
    options = BroadcastOptions()
    options.rootRank = 0
    group.broadcast([weight], options).wait()


def _bytes(weight: torch.Tensor) -> memoryview:
    return weight.contiguous().reshape(-1).view(torch.uint8).numpy().data
