"""The reference of an rl stage: the policy as the stage received it, put in the policy's place for a forward pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from trl.models.utils import prepare_deepspeed

from fettle.models import adapters
from fettle.rl.critic import is_of_critic
from fettle.rl.job import RlJob
from fettle.train.stage import attend_as_told
from fettle.train.zero import whole


class ReferencePolicy:
    """Of a fresh adapter the model without it, of one that goes on a copy of its weights, of full weights a second
    model, frozen. Made by all workers together."""

    def __init__(self, trainer: Any, job: RlJob, load: Callable[[Path, Any], Any]) -> None:
        """load: of the language model in a folder, in a dtype."""
        self._trainer, self._is_fresh = trainer, job.is_fresh
        self._received: dict[str, torch.Tensor] = {}
        self._model: Any = None
        if job.is_fresh:
            return
        if job.adapter.is_beside:
            assert job.from_adapter is not None
            # What a resumed stage trains is no longer what it received: that is read again.
            now = self._copied()
            with whole(self._trained()):
                adapters.restore(trainer.model, job.from_adapter)
            self._received = self._copied()
            self._put(now)
        else:
            self._model = self._second(job, load)

    @contextmanager
    def in_place(self) -> Iterator[Any]:
        """Yields the model that answers as the reference inside."""
        policy = self._trainer.model_wrapped
        if self._model is not None:
            yield self._model
        elif self._is_fresh:
            with self._trainer.model.disable_adapter():
                yield policy
        else:
            now = self._copied()
            self._put(self._received)
            try:
                yield policy
            finally:
                self._put(now)

    def _second(self, job: RlJob, load: Callable[[Path, Any], Any]) -> Any:
        trainer = self._trainer
        model = load(job.base, torch.float32)
        if job.from_adapter is not None:
            model = adapters.merged(model, job.from_adapter, torch.float32)
        attend_as_told(job, model, on_cpu=trainer.args.device.type == "cpu")  # else it is not quite the policy's
        model.requires_grad_(False)
        if trainer.is_deepspeed_enabled and trainer.accelerator.state.deepspeed_plugin.zero_stage == 3:
            return prepare_deepspeed(model, trainer.accelerator)
        model.to(trainer.args.device)
        return trainer.in_precision(model).eval()

    def _trained(self) -> list[torch.nn.Parameter]:
        model: PeftModel = self._trainer.model
        return [w for name, w in model.named_parameters() if w.requires_grad and not is_of_critic(name)]

    def _copied(self) -> dict[str, torch.Tensor]:
        trained = self._trained()
        with whole(trained):
            return {str(number): weight.detach().clone() for number, weight in enumerate(trained)}

    @torch.no_grad()
    def _put(self, weights: dict[str, torch.Tensor]) -> None:
        trained = self._trained()
        with whole(trained):
            for number, weight in enumerate(trained):
                weight.copy_(weights[str(number)])
