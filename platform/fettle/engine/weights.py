"""New weights into a running engine, in vLLM's own weight-transfer session: read from a safetensors file, or received
from the learner's memory (see `fettle.engine.channel`).

vLLM's own backends are for GPUs only (0.32.0); of them nccl is used. Its CPU layers pack their weights and drop them,
so that a plain `load_weights` fails: layerwise reloading makes them anew (rollouts.md 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from fettle.engine.channel import join, receive

_Init = TypeVar("_Init", bound=WeightTransferInitInfo)
_Update = TypeVar("_Update", bound=WeightTransferUpdateInfo)


class _LayerByLayer(WeightTransferEngine[_Init, _Update]):
    """A session in which each layer is filled anew."""

    def start_weight_update(self) -> None:
        """Empties the layers, which are filled one by one."""
        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        """Packs what is left over."""
        finalize_layerwise_reload(self.model, self.model_config)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As upstream, whose synchronisation a CPU lacks."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def fill(self, weights: Iterator[tuple[str, torch.Tensor]], origin: str) -> None:
        """Raises ValueError where these are not all of the model's weights: vLLM itself would only warn, and answer
        with what it had."""
        model: Any = self.model
        wanted = {name for name, _ in model.named_parameters()}
        loaded = model.load_weights(weights)
        if missing := sorted(wanted - set(loaded or ())):
            raise ValueError(f"{origin} has no {missing[0]}, and {len(missing) - 1} more are missing")

    def shutdown(self) -> None:
        """Nothing is held."""


@dataclass
class NoInit(WeightTransferInitInfo):
    """Nothing has to be agreed upon beforehand."""


@dataclass
class FileOfWeights(WeightTransferUpdateInfo):
    """path: of a safetensors file with all weights, named as in a checkpoint; a tied one under each of its names, since
    an output head on a CPU holds weights of its own, packed."""

    path: str


class FileTransfer(_LayerByLayer[NoInit, FileOfWeights]):
    """What a worker does with a file of weights. One in memory (/dev/shm) is read without a copy."""

    init_info_cls, update_info_cls = NoInit, FileOfWeights

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Nothing."""

    def receive_weights(self, update_info: FileOfWeights) -> None:
        """Raises ValueError where weights are missing."""
        with safe_open(update_info.path, framework="pt", device="cpu") as file:
            self.fill(((name, file.get_tensor(name)) for name in list(file.keys())), update_info.path)


@dataclass
class GlooMeeting(WeightTransferInitInfo):
    """Where the learner waits, and for how many seconds."""

    host: str
    port: int
    timeout_s: float


@dataclass
class Incoming(WeightTransferUpdateInfo):
    """What comes, in this order; dtypes and shapes one for each name. checksum: of all of it."""

    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]
    checksum: int


class GlooTransfer(_LayerByLayer[GlooMeeting, Incoming]):
    """What a worker does with weights that the learner sends it over gloo: nccl's part, on CPUs."""

    init_info_cls, update_info_cls = GlooMeeting, Incoming
    _group: Any = None

    def init_transfer_engine(self, init_info: GlooMeeting) -> None:
        """Meets the learner. Raises RuntimeError where it is not there in time."""
        self._group = join(init_info.host, init_info.port, init_info.timeout_s)

    def receive_weights(self, update_info: Incoming) -> None:
        """Raises ValueError where weights are missing or differ from what was sent, RuntimeError where the learner has
        gone."""
        assert self._group is not None
        told = update_info.names, update_info.dtype_names, update_info.shapes, update_info.checksum
        self.fill(receive(self._group, *told), "what was received")

    def shutdown(self) -> None:
        """Leaves the learner."""
        self._group = None


class WorkerExtension:
    """Makes vLLM import this module in each process that holds a worker, before it looks for a backend."""


for _name, _backend in (("file", FileTransfer), ("gloo", GlooTransfer)):
    if _name not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(_name, _backend)
