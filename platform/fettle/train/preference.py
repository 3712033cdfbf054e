"""The task of preferences: which answers are better, by the policy's own log-probabilities of them.

Letters: P pairs, N answers, of a micro-batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import disable_dropout_in_model

from fettle.data.batches import IGNORE, collate_parts
from fettle.data.tokens import TokenExample
from fettle.models.stored import Stored
from fettle.recipe.kinds import PreferenceStage
from fettle.train import losses
from fettle.train.causal import CausalTask
from fettle.train.checkpoint import Fence
from fettle.train.logprobs import part_logprobs, score, whole
from fettle.train.pairs import pairs_of
from fettle.train.reference import Reference, mismatched, reference_for
from fettle.train.task import HELDOUT

REFERENCE = "reference.npz"
_WITHOUT_REFERENCE = ("orpo", "simpo")
_EQUAL = 1e-4  # nats; float32 sums of an answer's log-probabilities in another order differ by less


class PreferenceTask(CausalTask):
    """spec: whose `loss` says which. folder: of the stage, where the reference's log-probabilities are kept.
    is_fresh: whether the policy has an adapter that the stage did not receive; so its reference has none."""

    def __init__(
        self,
        spec: PreferenceStage,
        *,
        folder: Path,
        fence: Fence,
        max_length: int,
        packing: bool,
        pad_id: int,
        is_fresh: bool = False,
    ) -> None:
        super().__init__(max_length=max_length, packing=packing, pad_id=pad_id)
        self.spec, self.folder, self.fence, self.is_fresh = spec, folder, fence, is_fresh
        self.beta = spec.beta if spec.beta is not None else 2.0 if spec.loss == "simpo" else 0.1
        self.unit = "answer" if spec.loss == "kto" else "pair"
        self.reference: Reference | None = None
        self._trainer: Any = None
        self._kl_of: tuple[str, int] | None = None
        self._kl = 0.0

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The language model in `base`, without dropout: the policy is compared with what it was, which has none."""
        model = super().load(base, dtype)
        disable_dropout_in_model(model)
        return model

    def prepare(self, trainer: Any) -> None:
        """Works out the reference's log-probabilities of all that the stage will learn from or measure."""
        self._trainer = trainer
        if self.spec.loss in _WITHOUT_REFERENCE:
            return
        lessons = trainer.steps.lessons
        steps = islice((step.examples for step in lessons.steps()), lessons.num_steps)
        parts = (part for examples in (*steps, lessons.heldout) for part in self._parts(examples))
        file = self.folder / REFERENCE
        with trainer.model.disable_adapter() if self.is_fresh else nullcontext():
            self.reference = reference_for(trainer, parts, file, self.fence, pad_id=self.pad_id, vocab=self._vocab)

    def collate(self, examples: Sequence[Any], step: int = HELDOUT) -> dict[str, torch.Tensor]:
        """As `collate_parts`, with `labels`, one for each term of the loss; `reference`, [N] nats, where it is needed.

        `pairs`: [P, 2], better and worse answer; with kto instead `judged`: [N], 1 good, 0 bad, -1 not learned from.
        """
        batch = collate_parts(examples, max_length=self.max_length, packing=self.packing, pad_id=self.pad_id)
        if self.spec.loss == "kto":
            batch["judged"] = torch.tensor([mark for one in examples for mark in judged(one)], dtype=torch.int64)
            num_terms = int((batch["judged"] >= 0).sum())
        else:
            batch["pairs"] = torch.tensor(list(_all_pairs(examples)), dtype=torch.int64).reshape(-1, 2)
            num_terms = len(batch["pairs"])
        if self.reference is not None:
            batch["reference"] = self.reference.of(part for one in examples for part in parts_of(one))
        # The first label is never counted, as transformers has it of rows of tokens.
        return batch | {"labels": torch.tensor([IGNORE] + [0] * num_terms)}

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the loss over the pairs (kto: answers) of a micro-batch."""
        if self.spec.loss == "kto":
            step = self._trainer.state.global_step + 1
            self._estimate_kl(model, "step", step, self._trainer.steps[step])
        return self._measure(model, inputs)["loss"]

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """loss; accuracy: share of pairs whose chosen answer has the higher reward, ties half; margin: its mean lead.

        Rewards: β times the log-ratio (ipo: its mean over the tokens); simpo: β times the mean log-probability of a
        token; orpo: that mean. With kto an answer is right where its reward is above β z₀ if it is good, below if it is
        bad, and the margin is twice the mean of the rewards, those of bad answers negative.
        """
        if self.spec.loss == "kto":
            at = self._trainer.state.global_step
            self._estimate_kl(model, "heldout", at, self._trainer.steps.heldout)
        return self._measure(model, inputs)

    def _measure(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        scores, counts = part_logprobs(model, inputs, self._vocab)
        if self.spec.loss not in _WITHOUT_REFERENCE:
            scores = scores - inputs["reference"]
        if self.spec.loss in ("ipo", "orpo", "simpo"):
            scores = scores / counts
        if self.spec.loss == "kto":
            return self._judge(scores[inputs["judged"] >= 0], inputs["judged"][inputs["judged"] >= 0] == 1)
        chosen, rejected = scores[inputs["pairs"][:, 0]], scores[inputs["pairs"][:, 1]]
        margin = (chosen - rejected).detach() * (1.0 if self.spec.loss == "orpo" else self.beta)
        return {
            "loss": self._pair_loss(chosen, rejected).sum(),
            "accuracy": _share_above_0((chosen - rejected).detach()).sum(),
            "margin": margin.sum(),
        }

    def _pair_loss(self, chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
        spec = self.spec
        if spec.loss == "ipo":
            return losses.ipo_loss(chosen, rejected, beta=self.beta)
        if spec.loss == "orpo":
            return losses.orpo_loss(chosen, rejected, beta=self.beta)
        if spec.loss == "simpo":
            target = 0.5 if spec.target_margin is None else spec.target_margin
            return losses.simpo_loss(chosen, rejected, beta=self.beta, target_margin=target)
        smoothing = (spec.label_smoothing or 0.1) if spec.loss == "cdpo" else 0.0
        return losses.dpo_loss(chosen, rejected, beta=self.beta, label_smoothing=smoothing)

    def _judge(self, logratios: torch.Tensor, is_good: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = losses.kto_loss(
            logratios,
            is_good,
            self._kl,
            beta=self.beta,
            desirable_weight=self.spec.desirable_weight or 1.0,
            undesirable_weight=self.spec.undesirable_weight or 1.0,
        )
        sign = torch.where(is_good, 1.0, -1.0)
        told = logratios.detach()
        return {
            "loss": loss.sum(),
            "accuracy": _share_above_0(sign * (told - self._kl)).sum(),
            "margin": (2 * self.beta * sign * told).sum(),
        }

    def _estimate_kl(self, model: Any, what: str, number: int, examples: Sequence[Any]) -> None:
        """KTO's z₀ over a whole step, by all workers, at its first micro-batch: so splitting it changes nothing."""
        if self._kl_of == (what, number):
            return
        assert self.reference is not None
        parts = mismatched([_judged_parts(one) for one in examples], self.max_length)
        policy = score(self._trainer, model, parts, pad_id=self.pad_id, vocab=self._vocab)
        self._kl = losses.kto_kl(policy.cpu(), self.reference.of(parts).double())
        self._kl_of = what, number

    def _parts(self, examples: Sequence[Any]) -> Iterator[TokenExample]:
        """All that is scored for some examples that are learned from, or measured, together."""
        for one in examples:
            yield from parts_of(one)
        if self.spec.loss == "kto":
            yield from mismatched([_judged_parts(one) for one in examples], self.max_length)


def judged(example: Any) -> list[int]:
    """1 for each good answer of a record, 0 for each bad one, -1 for one that is neither.

    Of a record of one answer its value says it; of several the better half is good, the worse one bad.
    """
    count = len(example.parts)
    if count == 1:
        return [int(example.values[0])]
    return [1] * (count // 2) + [-1] * (count % 2) + [0] * (count // 2)


def parts_of(example: Any) -> list[TokenExample]:
    """The answers of a record, each with its prompt."""
    return [whole(ids, mask) for ids, mask in zip(example.parts, example.part_masks, strict=True)]


def _share_above_0(differences: torch.Tensor) -> torch.Tensor:
    """1 where above 0, 0 where below, and a half where it is neither, as where the policy is still its reference."""
    return torch.where(differences.abs() < _EQUAL, 0.5, (differences > 0).float())


def _judged_parts(example: Any) -> list[TokenExample]:
    return [part for part, mark in zip(parts_of(example), judged(example), strict=True) if mark >= 0]


def _all_pairs(examples: Iterable[Any]) -> Iterator[tuple[int, int]]:
    first = 0
    for one in examples:
        yield from ((first + better, first + worse) for better, worse in pairs_of(one.values))
        first += len(one.parts)
