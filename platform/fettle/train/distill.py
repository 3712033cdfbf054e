"""The tasks of distillation, and of staying near the base: a model's next-token distributions beside a frozen one's.

Letters: N loss-bearing tokens of a micro-batch, V vocabulary.
"""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from fettle.data.batches import IGNORE
from fettle.models import adapters
from fettle.models.base import load_weights
from fettle.models.record_attention import attend_by_record
from fettle.models.stored import Stored
from fettle.recipe.distill import DistillStage
from fettle.train import logprobs
from fettle.train.causal import CausalTask
from fettle.train.divergences import forward_kl, jensen_shannon, reverse_kl
from fettle.train.head_parts import Head, read_hidden_states
from fettle.train.job import Teacher

_LOGITS_AT_ONCE = 6  # both models' logits, their logarithms and the terms of the sum


def load_teacher(teacher: Teacher, precision: str) -> PreTrainedModel:
    """The teacher, frozen and without dropout, its adapter merged; whole, so to be loaded before ZeRO 3 is set up.

    precision: of the arithmetic, in which the weights lie too.
    """
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    if teacher.adapter is None:
        model = load_weights(teacher.base, dtype)
    else:
        model = adapters.merged(load_weights(teacher.base, torch.float32), teacher.adapter, dtype)
    return model.requires_grad_(False).eval()


class BesideTask(CausalTask, ABC):
    """A model that learns with another's probabilities beside its own. teacher: as `load_teacher` gives it. precision:
    of the arithmetic."""

    def __init__(
        self, teacher: PreTrainedModel, *, precision: str, max_length: int, packing: bool, pad_id: int
    ) -> None:
        super().__init__(max_length=max_length, packing=packing, pad_id=pad_id)
        self.teacher, self.precision = teacher, precision
        read_hidden_states(teacher)

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The student in `base`, whose hidden states can be read instead of its logits."""
        model = load_weights(base, dtype)
        read_hidden_states(model)
        return model

    def prepare(self, trainer: Any) -> None:
        """Moves the teacher to this worker's device."""
        device = trainer.args.device
        self.teacher.to(device)
        if device.type == "cpu":
            attend_by_record(self.teacher)

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """`_loss`, summed over the labels, in nats, a scalar."""
        return self._sums(model, inputs, self._loss)[0]

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """loss; kl: KL(teacher ‖ student) at temperature 1, whatever the loss; ce: cross-entropy on the labels."""
        loss, kl, ce = self._sums(model, inputs, self._loss, _kl, _ce)
        return {"loss": loss, "kl": kl, "ce": ce}

    @abstractmethod
    def _loss(self, teacher: torch.Tensor, student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """As the other terms, a sum over the tokens. teacher, student: logits [N, V], each its own V; targets: [N]."""

    def _sums(
        self, model: Any, inputs: dict[str, torch.Tensor], *terms: Callable[..., torch.Tensor]
    ) -> list[torch.Tensor]:
        """The sums of some terms over all labels, the first with a gradient."""
        ids, positions, labels = inputs["input_ids"], inputs["position_ids"], inputs["labels"][:, 1:]
        wanted = labels != IGNORE
        targets = labels[wanted]
        is_bf16 = self.precision == "bf16"
        with torch.no_grad(), torch.autocast(ids.device.type, dtype=torch.bfloat16, enabled=is_bf16):
            theirs, their_head = self.teacher(
                input_ids=ids,
                position_ids=positions,
                use_cache=False,
                read=lambda hidden, head: (hidden[:, :-1][wanted], head),
            )

        def read(hidden: torch.Tensor, head: Head) -> dict[str, list[torch.Tensor]]:
            # Prompt tuning has learned tokens before the row's own.
            mine = hidden[:, -ids.shape[1] : -1][wanted]

            def part(logits: torch.Tensor, piece: slice) -> list[torch.Tensor]:
                with torch.no_grad():
                    teacher = their_head(theirs[piece])
                return [term(teacher, logits, targets[piece]) for term in terms]

            vocab = max(their_head.vocab, head.vocab)
            num_parts = max(1, -(-len(targets) * vocab * _LOGITS_AT_ONCE // logprobs.MOST_LOGITS))
            return {"sums": head.sums(mine, part, num_parts)}

        sums: list[torch.Tensor] = model(input_ids=ids, position_ids=positions, use_cache=False, read=read)["sums"]
        return sums


class DistillTask(BesideTask):
    """A student and its teacher. spec: of any loss but `answers`; the rest as of BesideTask."""

    def __init__(self, spec: DistillStage, teacher: PreTrainedModel, **rows: Any) -> None:
        super().__init__(teacher, **rows)
        assert spec.alpha is not None and spec.temperature is not None
        self.alpha, self.temperature = spec.alpha, spec.temperature
        self.divergence: Callable[..., torch.Tensor] = reverse_kl if spec.loss == "reverse_kl" else forward_kl
        if spec.loss == "jsd":
            assert spec.beta is not None
            self.divergence = functools.partial(jensen_shannon, beta=spec.beta)

    def _loss(self, teacher: torch.Tensor, student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """α times the divergence plus (1 - α) times the cross-entropy."""
        divergence = self.divergence(*_shared(teacher, student), self.temperature).sum()
        return self.alpha * divergence + (1 - self.alpha) * _ce(teacher, student, targets)


class NearBaseTask(BesideTask):
    """A model held to what it was before it was tuned, which is its teacher: learning without forgetting (Li & Hoiem
    2016, arXiv:1606.09282, equation 2, at temperature 1). coef: weight of the divergence; the rest as of BesideTask."""

    def __init__(self, coef: float, teacher: PreTrainedModel, **rows: Any) -> None:
        super().__init__(teacher, **rows)
        self.coef = coef

    def _loss(self, teacher: torch.Tensor, student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The cross-entropy plus `coef` times KL(teacher ‖ student)."""
        return _ce(teacher, student, targets) + self.coef * _kl(teacher, student, targets)


def _ce(teacher: torch.Tensor, student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cross_entropy(student, targets, reduction="sum")


def _kl(teacher: torch.Tensor, student: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return forward_kl(*_shared(teacher, student)).sum()


def _shared(teacher: torch.Tensor, student: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Both logits without the rows that only one of the models has: padding, which no token of the tokenizer is."""
    rows = min(teacher.shape[-1], student.shape[-1])
    return teacher[..., :rows], student[..., :rows]
