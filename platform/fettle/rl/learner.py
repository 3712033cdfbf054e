"""The learner of an rl stage: the policy, its critic where the algorithm wants one, and the loss of their steps.

Letters: L loss-bearing tokens of a micro-batch, row after row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from peft import PeftModel
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head, disable_dropout_in_model

from fettle.data.batches import IGNORE, Encoded, in_rows
from fettle.models.base import load_weights
from fettle.models.stored import Stored
from fettle.rl.algorithms.algorithm import Algorithm
from fettle.rl.critic import critic_of, values_of
from fettle.rl.job import RlJob
from fettle.rl.kl import FixedKl, estimate
from fettle.rl.passes import in_order, over_tokens
from fettle.rl.reference import ReferencePolicy
from fettle.rl.rollout import Judged
from fettle.rl.tally import Tally
from fettle.train.logprobs import label_logprobs
from fettle.train.task import HELDOUT

_ARRAYS = ("advantages", "weights", "old", "reference", "values", "returns")


class RlTask:
    """What an rl stage trains, and by which loss; the trainer knows no algorithm."""

    kind: Literal["model"] = "model"
    unit = "token"

    def __init__(self, job: RlJob, algorithm: Algorithm, kl: FixedKl, *, with_critic: bool = True) -> None:
        """with_critic: whether there is one, where the algorithm wants it; a replay has none."""
        self.job, self.algorithm, self.kl = job, algorithm, kl
        self.max_length, self.packing, self.pad_id = job.max_length, job.packing, job.pad_id
        self.temperature = job.spec.rollout.temperature
        self.wants_reference = job.spec.kl.coef > 0
        self.has_critic = algorithm.wants_critic and with_critic
        self.tally = Tally(has_reference=self.wants_reference, has_critic=self.has_critic)
        self.vocab = 0
        self.trainer: Any = None
        self._reference: ReferencePolicy | None = None

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The language model in `base`, without dropout: the policy is compared with what sampled from it."""
        model = load_weights(base, dtype)
        self.vocab = int(model.config.get_text_config().vocab_size)
        add_fused_lm_head(model, temperature=self.temperature, outputs=("log_probs",))
        disable_dropout_in_model(model)
        return model

    def prepare(self, trainer: Any) -> None:
        """Called once, with the model in its place, by all workers together."""
        self.trainer = trainer
        if self.has_critic:
            critic = critic_of(trainer.model)
            trainer.in_precision(critic.get_base_model() if isinstance(critic, PeftModel) else critic)
        if self.wants_reference:
            self._reference = ReferencePolicy(trainer, self.job, self.load)

    def collate(self, examples: Sequence[Encoded], step: int = HELDOUT) -> dict[str, torch.Tensor]:
        """`input_ids`, `position_ids`, `labels` of packed rows; and of each label, [L]: `sampler` log-probabilities,
        `answers`, which of the rollouts it is of, and `_ARRAYS` where the rollouts have them."""
        batch: Sequence[Judged] = examples  # type: ignore[assignment]
        rows, places = in_rows(batch, max_length=self.max_length, packing=self.packing, pad_id=self.pad_id)
        order = in_order(batch, places)
        counts = [batch[position].rollout.num_loss_tokens for position in order]
        rows["answers"] = torch.from_numpy(np.repeat(np.arange(len(order)), counts))
        rows["sampler"] = _flat([batch[position].rollout.logprobs for position in order], batch, order)
        for name in _ARRAYS:
            if batch and getattr(batch[0], name) is not None:
                rows[name] = _flat([getattr(batch[position], name) for position in order], batch, order)
        if not batch:
            empty = torch.zeros(0)
            rows |= {name: empty for name in ("sampler", *_ARRAYS) if name != "old"} | {"answers": empty.long()}
        return rows

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the tokens of the weighted loss: the algorithm's, the divergence's where it is in the loss, and the
        critic's."""
        logprobs = self.logprobs(model, inputs)
        old = inputs.get("old", logprobs.detach()) if len(logprobs) else logprobs.detach()
        sampler, weights = inputs["sampler"], inputs["weights"]
        found = self.algorithm.policy_loss(
            logprobs, inputs.get("old"), sampler, inputs["advantages"], inputs["answers"]
        )
        loss = found.loss
        reference = inputs.get("reference") if self.wants_reference else None
        if self.job.spec.kl.in_ == "loss":
            assert reference is not None and self.job.spec.kl.estimator is not None
            loss = loss + self.kl.coef * estimate(self.job.spec.kl.estimator, logprobs, reference)
        loss = loss * weights
        value_loss = None
        if self.has_critic:
            values = values_of(critic_of(self.trainer.model), inputs)
            value_loss = self.algorithm.value_loss(values, inputs["values"], inputs["returns"]).loss * weights
            assert self.algorithm.spec.value_coef is not None
            # The policy's gradients are 0 then; and every worker goes the same way through both models.
            loss = loss * self.job.spec.learns_policy(self._iteration)
            loss = loss + self.algorithm.spec.value_coef * value_loss
        self.tally.add(
            loss=loss,
            logprobs=logprobs,
            old=old,
            sampler=sampler,
            is_clipped=found.is_clipped,
            reference=reference,
            value_loss=value_loss,
        )
        return loss.sum()

    @property
    def _iteration(self) -> int:
        return int(self.trainer.state.global_step // self.job.spec.steps_per_iteration)

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss; nothing is measured by it."""
        return {"loss": self.loss_sum(model, inputs)}

    def logprobs(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of each label at the sampling temperature, [L] float32 nats."""
        return label_logprobs(model, inputs, inputs["labels"], self.vocab, self.temperature)

    def look(self, batch: Sequence[Judged]) -> list[Judged]:
        """The rollouts with what has to be known of them before the first step: the policy's log-probabilities where
        there are several steps, the reference's, the critic's values. All workers call it together."""
        found: dict[str, list[np.ndarray]] = {}
        if self.job.spec.steps_per_iteration > 1:
            found["old"] = self.policy_logprobs(batch)
        if self._reference is not None:
            with self._reference.in_place() as model:
                found["reference"] = over_tokens(self.trainer, batch, lambda rows: self.logprobs(model, rows))
        if self.has_critic:
            critic = critic_of(self.trainer.model)
            found["values"] = over_tokens(self.trainer, batch, lambda rows: values_of(critic, rows))
        looked = []
        for place, one in enumerate(batch):
            more: dict[str, Any] = {name: of[place][len(one.rollout.prompt_ids) :] for name, of in found.items()}
            looked.append(replace(one, **more))
        return looked

    def policy_logprobs(self, batch: Sequence[Encoded]) -> list[np.ndarray]:
        """Of each example's loss-bearing tokens by the policy as it is, as long as the example."""
        return over_tokens(self.trainer, batch, lambda rows: self.logprobs(self.trainer.model_wrapped, rows))

    def raw_logprobs(self, batch: Sequence[Encoded]) -> list[np.ndarray]:
        """The same of a few short texts at temperature 1, at which engines score."""

        def measure(rows: dict[str, torch.Tensor]) -> torch.Tensor:
            read = {key: rows[key] for key in ("input_ids", "position_ids")}
            logits = self.trainer.model_wrapped(**read, use_cache=False).logits[:, :-1].float()
            labels = rows["labels"][:, 1:]
            found = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[..., None])[..., 0]
            return found[labels != IGNORE]

        return over_tokens(self.trainer, batch, measure)


def _flat(arrays: Sequence[np.ndarray], batch: Sequence[Judged], order: Sequence[int]) -> torch.Tensor:
    """What the rollouts' masks let through, one after the other, float32 [L]."""
    kept = [array[batch[position].rollout.mask] for array, position in zip(arrays, order, strict=True)]
    return torch.from_numpy(np.concatenate(kept or [np.zeros(0)]).astype(np.float32))
