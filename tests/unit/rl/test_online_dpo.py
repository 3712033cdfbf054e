"""Online DPO by hand, and beside DPO's own loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from by_hand import MASKS, make, told


def test_online_dpo_by_hand(stage, batch) -> None:
    learned = make(stage, "online_dpo", kl={"coef": 0.2}).judge(batch, 0.2)
    # The policy is 0.5 a token above its reference, so that m = 0.2 · 0.5 (3 − 2 tokens), 0.2 · 1.5 (4 − 1).
    first, second = (0.4 / (1 + np.exp(margin)) for margin in (0.1, 0.3))
    assert [(one.rollout.prompt, one.rollout.sample) for one in learned] == [(0, 1), (0, 0), (1, 1), (1, 0)]
    masks = [MASKS[number] for number in (1, 0, 3, 2)]
    expected = [first, -first, second, -second]
    assert told(learned) == [
        [round(value * bears_loss, 5) for bears_loss in mask] for value, mask in zip(expected, masks, strict=True)
    ]


def test_the_gradient_of_online_dpo_is_that_of_dpos_loss(stage, batch) -> None:
    beta = 0.2
    algorithm = make(stage, {"kind": "online_dpo", "importance_cap": None}, kl={"coef": beta})
    learned = algorithm.judge(batch, beta)
    masks = [one.rollout.mask for one in learned]
    logprobs = [torch.tensor(one.policy[mask], requires_grad=True) for one, mask in zip(learned, masks, strict=True)]
    advantages, weights = (
        torch.from_numpy(np.concatenate([getattr(one, name)[mask] for one, mask in zip(learned, masks, strict=True)]))
        for name in ("advantages", "weights")
    )
    flat = torch.cat(logprobs)
    answers = torch.from_numpy(np.repeat(np.arange(4), [len(one) for one in logprobs]))
    loss = (algorithm.policy_loss(flat, None, flat.detach(), advantages, answers).loss * weights).sum() / len(flat)

    moved = [
        now.sum() - torch.tensor(one.reference[mask]).sum()
        for now, one, mask in zip(logprobs, learned, masks, strict=True)
    ]
    dpo = -torch.nn.functional.logsigmoid(beta * torch.stack([moved[0] - moved[1], moved[2] - moved[3]])).mean()

    for ours, theirs in zip(torch.autograd.grad(loss, logprobs), torch.autograd.grad(dpo, logprobs), strict=True):
        torch.testing.assert_close(ours, theirs.float(), rtol=1e-5, atol=1e-7)


def test_online_dpo_prefers_nothing_among_answers_rewarded_alike(stage, batch) -> None:
    alike = [replace(one, reward=1.0) for one in batch]
    learned = make(stage, "online_dpo", kl={"coef": 0.1}).judge(alike, 0.1)
    assert len(learned) == 4 and not any(one.advantages.any() for one in learned)


def test_a_broken_off_answer_makes_no_pair_where_it_bears_no_loss(stage, batch) -> None:
    algorithm = make(stage, {"kind": "online_dpo", "truncated": "mask"}, kl={"coef": 0.2})
    learned = algorithm.judge(batch, 0.2)  # the second prompt's best was broken off
    assert [bool(one.advantages.any()) for one in learned] == [True, True, False, False]
