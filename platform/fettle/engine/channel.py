"""Weights from a learner's memory into an engine's: a group for each engine, over nccl on GPUs and gloo on CPUs.

A group of its own for each engine, since a collective of many waits for the one that died: here only that engine's way
ends, and its successor gets a new one. The learner is rank 0, the engine's workers (one for each of its GPUs) are
the others. Over nccl none of this was ever run.
"""

from __future__ import annotations

import base64
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import torch
from torch.distributed import BroadcastOptions, PrefixStore, ProcessGroupGloo, TCPStore

from fettle.engine.env import device

_BYTES_UNDER_WAY = 256 << 20

Weights = Mapping[str, torch.Tensor]
"""Named as in a checkpoint, on the CPU, contiguous; a tied one under each of its names."""


class Channel(ABC):
    """The learner's end. meeting: what the engine has to know to find it. failure: what ended the last `send`."""

    meeting: dict[str, Any]
    failure: Exception | None = None

    def send(self, weights: Weights) -> None:
        """To the engine, which was told of `incoming`. Raises nothing: what went wrong is in `failure`."""
        self.failure = None
        try:
            self._send(weights)
        except Exception as error:
            self.failure = error

    @abstractmethod
    def close(self) -> None:
        """Sends no more. A tensor that is on its way is not waited for."""

    @abstractmethod
    def _send(self, weights: Weights) -> None: ...


class GlooChannel(Channel):
    """host: this node's address, as engines reach it. timeout_s: for the engine to come, and for each tensor."""

    def __init__(self, host: str, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._group: Any = None
        self._store = _store(host, 0, timeout_s, is_first=True)
        self.meeting = {"host": host, "port": self._store.port, "timeout_s": timeout_s}

    def close(self) -> None:
        """See Channel."""
        self._group = None

    def _send(self, weights: Weights) -> None:
        if self._group is None:
            self._group = _gloo(self._store, 0, self._timeout_s)
        for weight in weights.values():
            _broadcast(self._group, weight)


class NcclChannel(Channel):
    """ranks: GPUs of the engine. gpu: index of the one that is sent from.

    As vLLM's own `NCCLTrainerWeightTransferEngine`, with one call to the engine where that makes four, and a stream of
    its own: that has its channels share two streams, where a broadcast to an engine that died stops all the others.
    nccl itself waits for ever for an engine that dies before it has come.
    """

    def __init__(self, ranks: int, gpu: int) -> None:
        from vllm.distributed.device_communicators.pynccl_wrapper import NCCLLibrary  # needs CUDA's libraries

        self._ranks, self._gpu, self._is_closed = ranks, gpu, False
        self._group: Any = None
        self._id = bytes(NCCLLibrary().ncclGetUniqueId().internal)
        told = base64.b64encode(self._id).decode("ascii")
        self.meeting = {"nccl_unique_id_b64": told, "rank_offset": 1, "world_size": 1 + ranks, "packed": False}

    def close(self) -> None:
        """See Channel."""
        self._is_closed = True
        if self._group is not None:
            self._group.destroy()

    def _send(self, weights: Weights) -> None:
        from vllm.distributed.weight_transfer.nccl_common import uid_init_process_group

        with torch.accelerator.device_index(self._gpu):  # each thread begins with the first
            if self._group is None:
                self._group = uid_init_process_group(self._id, 0, 1 + self._ranks, self._gpu)
                self._stream = torch.cuda.Stream()
            under_way: list[torch.Tensor] = []
            for weight in weights.values():
                if self._is_closed:
                    raise RuntimeError("the engine has gone")
                with torch.cuda.stream(self._stream):
                    under_way.append(weight.to(f"cuda:{self._gpu}"))
                    self._group.broadcast(under_way[-1], src=0, stream=self._stream)
                if sum(one.nbytes for one in under_way) > _BYTES_UNDER_WAY:
                    self._stream.synchronize()
                    under_way.clear()
            self._stream.synchronize()


def open_channel(host: str, ranks: int, timeout_s: float, gpu: int) -> Channel:
    """To an engine of this machine's kind; see GlooChannel and NcclChannel."""
    return GlooChannel(host, timeout_s) if device() == "cpu" else NcclChannel(ranks, gpu)


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
