"""New weights into a running engine, in vLLM's own weight-transfer session, read from a safetensors file.

A file in memory (/dev/shm) is read without a copy, on CPUs and on GPUs alike. vLLM's own backends, nccl and its kin,
are for GPUs only (0.32.0). Its CPU layers pack their weights and drop them, so that a plain `load_weights` fails:
layerwise reloading makes them anew (rollouts.md 3).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from safetensors import safe_open
from vllm.distributed.weight_transfer.base import WeightTransferEngine, WeightTransferInitInfo, WeightTransferUpdateInfo
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

BACKEND = "file"


@dataclass
class NoInit(WeightTransferInitInfo):
    """Nothing has to be agreed upon beforehand."""


@dataclass
class FileOfWeights(WeightTransferUpdateInfo):
    """path: of a safetensors file with all weights, named as in a checkpoint; a tied one under each of its names, since
    an output head on a CPU holds weights of its own, packed."""

    path: str


class FileTransfer(WeightTransferEngine[NoInit, FileOfWeights]):
    """What a worker does with a file of weights."""

    init_info_cls, update_info_cls = NoInit, FileOfWeights

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Nothing."""

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

    def receive_weights(self, update_info: FileOfWeights) -> None:
        """Raises ValueError where the file does not hold all of the model's weights: vLLM itself would only warn, and
        answer with what it had."""
        model: Any = self.model
        wanted = {name for name, _ in model.named_parameters()}
        with safe_open(update_info.path, framework="pt", device="cpu") as file:
            loaded = model.load_weights((name, file.get_tensor(name)) for name in list(file.keys()))
        if missing := sorted(wanted - set(loaded or ())):
            raise ValueError(f"{update_info.path} has no {missing[0]}, and {len(missing) - 1} more are missing")

    def shutdown(self) -> None:
        """Nothing is held."""


def register() -> None:
    """Makes the backend known to vLLM, in each process that holds a worker."""
    if BACKEND not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(BACKEND, FileTransfer)
