"""Which weights go to the engines, and by what it is told that they arrived: numbered, summed up, probed.

Of an adapter only the adapter travels. Full weights are gathered parameter by parameter. What was written for a version
never changes; engines are told of it by its number.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import save_file

from fettle.data.tokens import TokenExample
from fettle.rl.critic import is_of_critic
from fettle.rl.engines import Probe, Version, checksum_of
from fettle.rl.job import RlJob
from fettle.rl.learner import RlTask
from fettle.train.checkpoint import Fence
from fettle.train.zero import whole

PROBED_TOKENS = 48
PROBED_TEXTS = 2
_VERSIONS = "versions"
_DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def version_path(job: RlJob, number: int) -> Path:
    """Where a version lies: an adapter's folder, or a safetensors file."""
    folder = job.folder / _VERSIONS / f"{number:08d}"
    return folder if job.adapter.is_beside else folder / "weights.safetensors"


class Sync:
    """Writes the policy as numbered versions below `job.folder`/versions. All workers have one and call it together."""

    def __init__(self, trainer: Any, task: RlTask, job: RlJob, fence: Fence) -> None:
        self._trainer, self._task, self._job, self._fence = trainer, task, job, fence
        self._folder = job.folder / _VERSIONS
        length = min(PROBED_TOKENS, job.max_length - 1)
        # Any tokens will do, and these are the same for all workers.
        drawn = np.random.default_rng(job.seed).integers(task.vocab, size=(PROBED_TEXTS, length), dtype=np.int32)
        self._probed = [TokenExample(ids, np.arange(length) > 0) for ids in drawn]
        self._dtype = _DTYPES[job.precision]

    def publish(self, number: int) -> Version:
        """The policy as it is, written as the version of that number."""
        probe = self._probe()
        state = self._adapter() if self._job.adapter.is_beside else self._weights()
        if self._job.spec.rollout.placement == "shared" and torch.cuda.is_available():
            torch.cuda.empty_cache()  # the engines want the room
        if self._job.spec.rollout.transfer == "broadcast":
            return Version(number, probe=probe, weights=state)
        version = Version(number, version_path(self._job, number), self._job.adapter.is_beside, probe=probe)
        if not self._trainer.is_world_process_zero():
            return version
        final = self._folder / f"{number:08d}"
        partial = self._folder / f".{number:08d}-{self._fence.token}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        file = partial / ("adapter_model.safetensors" if version.is_adapter else "weights.safetensors")
        save_file(state, file)
        if version.is_adapter:
            self._trainer.model.peft_config["default"].save_pretrained(str(partial))
        checksum = checksum_of(file)
        self._fence.check()
        shutil.rmtree(final, ignore_errors=True)  # of an attempt that was interrupted, whose engines are gone
        partial.rename(final)
        self._forget(number)
        return Version(number, version.path, version.is_adapter, checksum, probe)

    def stored(self, number: int) -> Version | None:
        """An earlier version that is still there, which only a resumed run asks for; it has no probe. One that was
        broadcast is not."""
        path = version_path(self._job, number)
        if not path.exists():
            return None
        version = Version(number, path, self._job.adapter.is_beside)
        assert version.file is not None
        return Version(number, path, version.is_adapter, checksum_of(version.file))

    def clear(self) -> None:
        """Removes them all: the stage's artifact is there."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _forget(self, newest: int) -> None:
        spec = self._job.spec
        # Replays want an adapter's versions too; full weights are too large to keep.
        keep = max(spec.recorder.batches if self._job.adapter.is_beside else 0, spec.max_staleness + 2)
        for folder in self._folder.glob("[0-9]*"):
            if int(folder.name) <= newest - keep:
                shutil.rmtree(folder, ignore_errors=True)

    def _probe(self) -> Probe:
        found = self._task.raw_logprobs(self._probed)
        return Probe(
            tuple(tuple(one.input_ids.tolist()) for one in self._probed),
            tuple(tuple(of[1:].tolist()) for of in found),
        )

    def _adapter(self) -> dict[str, torch.Tensor]:
        model: PeftModel = self._trainer.model
        own = {n: w for n, w in model.named_parameters() if "lora_" in n and not is_of_critic(n)}
        state = {}
        with whole(list(own.values())):
            for name, weight in own.items():
                state[name.replace(".default", "")] = weight.detach().to("cpu", torch.float32, copy=True)
        return state

    def _weights(self) -> dict[str, torch.Tensor]:
        """Every name of a weight with a tensor of its own, tied ones too: an engine's output head is packed apart."""
        is_first, state = self._trainer.is_world_process_zero(), {}
        for name, weight in self._trainer.model.named_parameters(remove_duplicate=False):
            if is_of_critic(name):
                continue
            with whole([weight]):
                if is_first:
                    state[name] = weight.detach().to("cpu", self._dtype, copy=True)
        return state
