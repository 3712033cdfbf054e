"""The whole way from rewards to a step's loss and its gradient, beside TRL's own GRPO and RLOO trainers.

TRL's `_compute_loss` is called as it is, on trainers that hold just what it reads; in place of a model they are given
log-probabilities. Its advantages come from inside a function that also generates; they are written out here.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from trl import GRPOTrainer, RLOOTrainer
from trl.trainer.utils import nanstd

from fettle.rl.algorithms import algorithm_of
from fettle.rl.kl import estimate
from fettle.rl.rollout import Judged

SAMPLES, LONGEST, MAX_NEW = 4, 6, 10
LENGTHS = (6, 2, 5, 1, 3, 6, 4, 4)
REWARDS = np.array([1.0, 0.0, 0.5, 2.0, -1.0, 0.25, 3.0, 3.0])
ENVIRONMENT = ((0, 2), (0, 3), (5, 1))  # answer, token


class Batch:
    """Eight answers to two prompts as TRL has them, [8, 6], padded, and as ours; the policy has moved since."""

    def __init__(self, judged: Any, *, moved: float, tools: bool = True) -> None:
        draw = torch.Generator().manual_seed(3)
        shape = (len(LENGTHS), LONGEST)
        self.answered = torch.tensor([[t < length for t in range(LONGEST)] for length in LENGTHS])
        self.mask = self.answered.clone()
        for answer, token in ENVIRONMENT if tools else ():
            self.mask[answer, token] = False
        self.old = -torch.rand(shape, generator=draw) * 3
        self.sampler = self.old + 0.3 * torch.randn(shape, generator=draw)
        self.reference = self.old + 0.5 * torch.randn(shape, generator=draw)
        self.logprobs = (self.old + moved * torch.randn(shape, generator=draw)).requires_grad_()
        self.ours: list[Judged] = [
            judged(
                number // SAMPLES,
                float(REWARDS[number]),
                self.mask[number, :length].int().tolist(),
                old=self._of("old", number),
                reference=self._of("reference", number),
                logprobs=self._of("sampler", number).astype(np.float32),
            )
            for number, length in enumerate(LENGTHS)
        ]

    def _of(self, name: str, number: int) -> np.ndarray:
        kept = torch.where(self.mask, getattr(self, name), 0.0)
        return np.asarray(kept[number, : LENGTHS[number]].numpy())

    def loss(self, algorithm: Any, kl_coef: float = 0.0) -> torch.Tensor:
        """Our loss of the step, as the trainer that knows no algorithm works it out."""
        told = algorithm.judge(self.ours, kl_coef)
        advantages, weights = (
            torch.from_numpy(np.concatenate([getattr(one, name)[one.rollout.mask] for one in told]))
            for name in ("advantages", "weights")
        )
        answers = torch.arange(len(LENGTHS))[:, None].expand(self.mask.shape)[self.mask]
        logprobs = self.logprobs[self.mask]
        loss = algorithm.policy_loss(logprobs, self.old[self.mask], self.sampler[self.mask], advantages, answers).loss
        if algorithm.kl.in_ == "loss":
            loss = loss + kl_coef * estimate(algorithm.kl.estimator, logprobs, self.reference[self.mask])
        return (weights * loss).sum() / len(loss)


def trainer(batch: Batch, **told: Any) -> Any:
    """What `_compute_loss` reads of its trainer."""
    held: dict[str, Any] = {
        "_get_per_token_logps_and_entropies": lambda *_, **__: (batch.logprobs, torch.zeros(batch.mask.shape), None),
        "accelerator": SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x),
        "args": SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        "model": SimpleNamespace(training=True),
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "current_gradient_accumulation_steps": 1,
        "aux_loss_enabled": False,
        "_entropy_bonus_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "max_completion_length": MAX_NEW,
        "use_vllm": True,
        "vllm_importance_sampling_correction": True,
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "beta": 0.0,
    }
    return SimpleNamespace(**held | told)


def inputs(batch: Batch, advantages: torch.Tensor, cap: float = 2.0) -> dict[str, Any]:
    nothing = torch.zeros(len(LENGTHS), 1, dtype=torch.int64)
    return {
        "prompt_ids": nothing,
        "prompt_mask": nothing,
        "completion_ids": torch.zeros(batch.mask.shape, dtype=torch.int64),
        "completion_mask": batch.answered.int(),
        "tool_mask": batch.mask.int(),
        "advantages": advantages.float(),
        "old_per_token_logps": batch.old,
        "ref_per_token_logps": batch.reference,
        "importance_sampling_ratio": (batch.old - batch.sampler).exp().clamp(max=cap),  # grpo_trainer.py, 2672-2685
        "num_items_in_batch": batch.mask.sum(),
        "old_logps": (batch.old * batch.mask).sum(1),
    }


def grouped(rewards: torch.Tensor, *, scaled: bool) -> torch.Tensor:
    """grpo_trainer.py, 1.16, lines 2765-2787."""
    mean = torch.nanmean(rewards.view(-1, SAMPLES), dim=1).repeat_interleave(SAMPLES, dim=0)
    std = nanstd(rewards.view(-1, SAMPLES), dim=1).repeat_interleave(SAMPLES, dim=0)
    return (rewards - mean) / (std + 1e-4) if scaled else rewards - mean


def assert_same(ours: torch.Tensor, theirs: torch.Tensor, batch: Batch) -> None:
    """One loss and one gradient."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad(loss, batch.logprobs, retain_graph=True)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)
    assert gradients[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("keys", "settings", "scaled"),
    [
        ({"kind": "grpo"}, {"loss_type": "grpo"}, True),
        ({"kind": "grpo", "average": "tokens"}, {"loss_type": "dapo"}, True),
        ({"kind": "grpo", "clip_low": 0.1, "clip_high": 0.28}, {"epsilon_low": 0.1, "epsilon_high": 0.28}, True),
        ({"kind": "grpo", "dual_clip": 1.5}, {"delta": 1.5}, True),
        ({"kind": "grpo", "level": "sequence"}, {"importance_sampling_level": "sequence"}, True),
        ({"kind": "grpo", "importance_cap": None}, {"vllm_importance_sampling_correction": False}, True),
        ({"kind": "dr_grpo"}, {"loss_type": "dr_grpo"}, False),
    ],
    ids=["grpo", "dapo", "clip-higher", "dual-clip", "gspo", "no-importance", "dr-grpo"],
)
@pytest.mark.parametrize("kl_coef", [0.0, 0.07])
def test_the_loss_of_a_step_is_that_of_trls_grpo(judged, stage, keys, settings, scaled, kl_coef) -> None:
    batch = Batch(judged, moved=0.4)
    kl = {"coef": kl_coef} | ({"in": "loss"} if kl_coef else {})
    ours = algorithm_of(stage(keys, kl=kl, rollout={"max_new_tokens": MAX_NEW}))
    theirs = trainer(batch, **{"loss_type": "grpo", "beta": kl_coef} | settings)
    theirs.args.delta = settings.get("delta")

    expected = GRPOTrainer._compute_loss(theirs, None, inputs(batch, grouped(torch.tensor(REWARDS), scaled=scaled)))

    assert_same(batch.loss(ours, kl_coef), expected, batch)


def test_the_clip_fraction_is_trls(judged, stage) -> None:
    batch = Batch(judged, moved=0.4)
    theirs, advantages = trainer(batch, loss_type="grpo"), grouped(torch.tensor(REWARDS), scaled=True)
    GRPOTrainer._compute_loss(theirs, None, inputs(batch, advantages))

    old, logprobs, sampler = (x[batch.mask] for x in (batch.old, batch.logprobs, batch.sampler))
    answers = torch.arange(len(LENGTHS))[:, None].expand(batch.mask.shape)[batch.mask]
    found = algorithm_of(stage("grpo")).policy_loss(logprobs, old, sampler, advantages[answers].float(), answers)

    (share,) = theirs._metrics["train"]["clip_ratio/region_mean"]
    assert 0.1 < found.is_clipped.float().mean().item() == pytest.approx(share)


@pytest.mark.parametrize("kl_coef", [0.0, 0.07])
@pytest.mark.parametrize(("level", "moved"), [("sequence", 0.1), ("token", 0.0)])
def test_the_loss_of_a_step_is_that_of_trls_rloo(judged, stage, level, moved, kl_coef) -> None:
    # On the first step, where the policy has not moved, the two levels have one gradient, and TRL's.
    batch = Batch(judged, moved=moved, tools=False)
    kl = {"coef": kl_coef} | ({"in": "reward"} if kl_coef else {})
    ours = algorithm_of(stage({"kind": "rloo", "level": level, "importance_cap": None}, kl=kl))

    # rloo_trainer.py, 1669-1690: the divergence off the rewards, then the mean of the others.
    rewards = torch.tensor(REWARDS) - kl_coef * ((batch.old - batch.reference) * batch.mask).sum(-1)
    told = rewards.view(-1, SAMPLES)
    baselines = (torch.nansum(told, dim=1, keepdim=True) - told) / (SAMPLES - 1)
    expected = RLOOTrainer._compute_loss(trainer(batch), None, inputs(batch, rewards - baselines.view(-1)))

    found = batch.loss(ours, kl_coef)
    if level == "token":  # −mean of A_i T_i, where TRL's is −mean of A_i: another constant, one gradient
        found = found - found.detach() + expected.detach()
    assert_same(found, expected, batch)
