"""The learner: where rollouts' numbers lie in a micro-batch, and the loss of a tiny model by hand from its logits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_rl import VOCAB, alone, make_job, tiny_model, trainer_of

from fettle.data.batches import IGNORE
from fettle.data.tokens import TokenExample
from fettle.models.base import BUNDLED
from fettle.recipe.adapter import FULL
from fettle.rl.algorithms import algorithm_of
from fettle.rl.critic import PART, critic_of, is_of_critic, load_critic
from fettle.rl.kl import kl_weight
from fettle.rl.learner import RlTask
from fettle.rl.passes import in_order, over_tokens
from fettle.rl.rollout import Judged

ARRAYS = ("advantages", "weights", "old", "reference", "values", "returns")
NO_KL = {"coef": 0.0}


@pytest.fixture(scope="module")
def model() -> Any:
    return tiny_model()


@pytest.fixture
def task(tmp_path: Any, stage: Any, model: Any) -> Any:
    """`task(algorithm, model=, **keys of the stage)`: with a trainer of that model, the tiny one by default."""

    def make(algorithm: Any = "grpo", of: Any = None, **told: Any) -> RlTask:
        spec = stage(algorithm, **told)
        made = RlTask(make_job(tmp_path, spec), algorithm_of(spec), kl_weight(spec.kl))
        made.trainer = trainer_of(made, of or model)
        return made

    return make


@pytest.fixture
def batch(rollout: Any) -> list[Judged]:
    """Five rollouts of unlike lengths, two with tokens of an environment, whose arrays are drawn."""
    draw = np.random.default_rng(0)
    found = []
    for number, mask in enumerate(([1] * 9, [1, 0, 0, 1, 1], [1, 1, 0, 1], [1], [1, 1, 1, 1, 1, 1])):
        ids = {
            "prompt_ids": draw.integers(1, VOCAB, size=2 + number, dtype=np.int32),
            "output_ids": draw.integers(1, VOCAB, size=len(mask), dtype=np.int32),
        }
        arrays = {name: (draw.normal(size=len(mask)) * mask).astype(np.float32) for name in (*ARRAYS, "logprobs")}
        one = rollout(number // 2, mask=mask, logprobs=arrays.pop("logprobs") - 3 * np.array(mask, np.float32), **ids)
        arrays["old"], arrays["weights"] = arrays["old"] - 3, np.abs(arrays["weights"])
        arrays["reference"] -= 3
        found.append(Judged(one, {}, 0.0, **arrays))
    return found


def numbered(batch: list[Judged]) -> list[Judged]:
    """The rollouts with numbers that tell the token: each token's id, all different, is each of its numbers too."""
    found, at = [], 1
    for one in batch:
        ids = np.arange(at, at + len(one.rollout.output_ids), dtype=np.int32)
        at += len(ids)
        arrays = dict.fromkeys(ARRAYS, ids.astype(np.float32))
        found.append(Judged(replace(one.rollout, output_ids=ids, logprobs=ids.astype(np.float32)), {}, 0.0, **arrays))
    return found


def labels_of(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = inputs["labels"][:, 1:]
    return labels[labels != IGNORE]


@pytest.mark.parametrize("packing", [True, False])
def test_every_number_lies_where_the_label_of_its_token_does(task, batch, packing) -> None:
    inputs = task(packing=packing).collate(numbered(batch))
    labels = labels_of(inputs).float().tolist()
    assert {name: inputs[name].tolist() for name in ("sampler", *ARRAYS)} == dict.fromkeys(("sampler", *ARRAYS), labels)


@pytest.mark.parametrize("packing", [True, False])
def test_every_token_knows_which_answer_it_is_of(task, batch, packing) -> None:
    told = numbered(batch)
    inputs = task(packing=packing).collate(told)
    of_token = {int(i): n for n, one in enumerate(told) for i in one.rollout.output_ids}
    tokens = zip(labels_of(inputs).tolist(), inputs["answers"].tolist(), strict=True)
    groups = {(of_token[label], answer) for label, answer in tokens}
    assert sorted(number for number, _ in groups) == sorted(answer for _, answer in groups) == [0, 1, 2, 3, 4]


def test_what_rollouts_do_not_have_is_not_in_the_batch(task, rollout) -> None:
    inputs = task().collate([Judged(rollout(), {}, 0.0, advantages=np.ones(3, np.float32))])
    assert set(inputs) == {"input_ids", "labels", "position_ids", "answers", "sampler", "advantages"}


def test_the_order_of_labels_is_that_of_rows_and_then_of_columns(batch) -> None:
    assert in_order(batch[:4], [(1, 0, 3), (0, 4, 6), (1, 3, 9), (0, 0, 4)]) == [3, 1, 0, 2]


@pytest.mark.parametrize("keys", [{"kind": "grpo"}, {"kind": "grpo", "level": "sequence"}, {"kind": "rloo"}])
def test_packed_and_padded_rows_have_one_loss(task, model, batch, keys) -> None:
    one, other = (task(keys, packing=packing) for packing in (True, False))
    found = [of.loss_sum(model, of.collate(batch)).item() for of in (one, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_loss_of_grpo_is_that_of_the_paper_worked_out_from_logits(task, model, batch, temperature) -> None:
    mine = task("grpo", kl={"coef": 0.07}, rollout={"temperature": temperature})
    found = mine.loss_sum(model, mine.collate(batch)).item()

    expected = 0.0
    for one in batch:
        kept = one.rollout.mask
        advantages, weights, old, reference, sampler = (
            torch.from_numpy(of[kept])
            for of in (one.advantages, one.weights, one.old, one.reference, one.rollout.logprobs)
        )
        logprobs = alone(model, one, temperature)
        ratio = (logprobs - old).exp()
        policy = -torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages)  # Shao et al. 2024, equation 3
        policy *= (old - sampler).exp().clamp(max=2)  # truncated importance sampling
        k3 = (reference - logprobs).exp() - (reference - logprobs) - 1  # equation 4
        expected += (weights * (policy + 0.07 * k3)).sum().item()
    assert found == pytest.approx(expected, rel=1e-4)


def test_a_policy_that_has_not_moved_has_ratios_of_1_and_no_divergence(task, model, batch) -> None:
    mine = task("grpo")
    now = mine.policy_logprobs(batch)
    still = []
    for one, laid in zip(batch, now, strict=True):
        said = laid[len(one.rollout.prompt_ids) :]
        still.append(replace(one, rollout=replace(one.rollout, logprobs=said), old=None, reference=said))
    mine.loss_sum(model, mine.collate(still))
    told = mine.tally.take(torch.device("cpu"), 1)
    found = (told.ratio_mean, told.ratio_max, told.gap_max, told.kl, told.clip_fraction)
    assert found == pytest.approx((1.0, 1.0, 0.0, 0.0, 0.0), abs=1e-5)


@pytest.mark.parametrize(
    "keys", [{"kind": "grpo"}, {"kind": "grpo", "level": "sequence"}, {"kind": "reinforce_pp"}, {"kind": "raft"}]
)
def test_a_micro_batch_of_nothing_has_a_loss_of_0_which_reaches_every_weight(task, keys) -> None:
    policy, mine = tiny_model(), task(keys)
    loss = mine.loss_sum(policy, mine.collate([]))
    loss.backward()
    gradients = [weight.grad for weight in policy.parameters()]
    assert loss.item() == 0 and all(one is not None and not one.any() for one in gradients)


@pytest.mark.parametrize("keys", [{"kind": "grpo"}, {"kind": "grpo", "level": "sequence"}, {"kind": "dr_grpo"}])
def test_a_step_may_be_cut_into_micro_batches_anywhere(task, model, batch, keys) -> None:
    mine = task(keys)
    whole = mine.loss_sum(model, mine.collate(batch)).item()
    parts = [mine.loss_sum(model, mine.collate(batch[first:last])).item() for first, last in ((0, 1), (1, 4), (4, 5))]
    assert sum(parts) == pytest.approx(whole, rel=1e-5)


def test_without_old_log_probabilities_the_policy_is_its_own_old_one(task, model, batch) -> None:
    mine = task({"kind": "grpo", "importance_cap": None}, kl=NO_KL)
    found = mine.loss_sum(model, mine.collate([replace(one, old=None) for one in batch])).item()
    assert found == pytest.approx(-sum(float((one.weights * one.advantages).sum()) for one in batch), rel=1e-5)


def test_each_example_has_the_numbers_of_a_forward_pass_of_its_own(task, model, batch) -> None:
    mine = task(rollout={"temperature": 2.0})
    found = mine.policy_logprobs(batch)
    expected = []
    for one in batch:
        laid = np.zeros(len(one.input_ids), np.float32)
        laid[one.loss_mask] = alone(model, one, 2.0).detach().numpy()
        expected.append(laid)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_passes_over_many_batches_give_each_example_its_own_numbers(task, batch, monkeypatch) -> None:
    monkeypatch.setattr("fettle.rl.passes._TOKENS_PER_BATCH", 10)  # 45 tokens: five batches
    mine, told = task(), numbered(batch)
    found = over_tokens(mine.trainer, told, lambda rows: labels_of(rows).float())
    expected = [np.where(one.loss_mask, one.input_ids, 0) for one in told]
    assert [one.tolist() for one in found] == [one.tolist() for one in expected]


def test_passes_leave_a_model_that_learns_learning(task, batch) -> None:
    policy = tiny_model().train()
    task(of=policy).policy_logprobs(batch)
    assert policy.training


def test_what_engines_are_compared_with_is_at_temperature_1(task, model) -> None:
    text = TokenExample(np.array([5, 6, 7, 8], np.int32), np.arange(4) > 0)
    (found,) = task(rollout={"temperature": 0.5}).raw_logprobs([text])
    np.testing.assert_allclose(found, [0.0, *alone(model, text).tolist()], rtol=1e-4)


@pytest.mark.parametrize(("keys", "is_wanted"), [({}, False), ({"batch": {"sequences": 64}}, True)])
def test_old_log_probabilities_are_worked_out_where_there_are_several_steps(task, batch, keys, is_wanted) -> None:
    mine = task("grpo", kl=NO_KL, **keys)
    bare = [Judged(one.rollout, {}, 0.0) for one in batch]
    assert [one.old is not None for one in mine.look(bare)] == [is_wanted] * 5


@pytest.fixture
def valued(task: Any) -> RlTask:
    """Of PPO, whose critic is the bundled base under a head that was drawn."""
    policy = tiny_model()
    mine = task("ppo", policy, kl=NO_KL)
    critic: Any = load_critic(BUNDLED["tiny"], FULL, torch.float32, seed=0)
    torch.manual_seed(5)
    torch.nn.init.normal_(critic.score.weight)
    policy.add_module(PART, critic)
    return mine


def value_alone(mine: RlTask, one: Judged) -> np.ndarray:
    """By a forward pass of the rollout alone: at each token the score of the token before it."""
    ids = torch.from_numpy(one.input_ids.astype(np.int64))[None]
    with torch.no_grad():
        scores = critic_of(mine.trainer.model)(input_ids=ids, position_ids=torch.arange(ids.shape[1])[None])[0, :, 0]
    laid = np.concatenate([[0.0], scores[:-1].numpy()])[len(one.rollout.prompt_ids) :]
    return np.where(one.rollout.mask, laid, 0)


def test_values_are_of_the_state_before_each_token(valued, batch) -> None:
    for one in valued.look(batch):
        np.testing.assert_allclose(one.values, value_alone(valued, one), rtol=1e-3, atol=1e-4)


def test_a_critic_begins_with_values_of_0() -> None:
    critic: Any = load_critic(BUNDLED["tiny"], FULL, torch.float32, seed=0)
    ids = torch.arange(1, 9)[None]
    assert not critic(input_ids=ids, position_ids=torch.arange(8)[None]).any()


def test_the_critics_loss_is_added_with_its_weight(valued, task, batch) -> None:
    without = task({"kind": "ppo", "value_coef": 1e-12}, valued.trainer.model, kl=NO_KL)
    both, policy = (of.loss_sum(of.trainer.model, of.collate(batch)).item() for of in (valued, without))
    expected = 0.0
    for one in batch:
        values = value_alone(valued, one)
        held = np.clip(values, one.values - 0.2, one.values + 0.2)
        squares = np.maximum((values - one.returns) ** 2, (held - one.returns) ** 2)
        expected += 0.1 * float((one.weights * squares / 2).sum())  # value_coef 0.1, ½ (V − R)²
    assert both - policy == pytest.approx(expected, rel=1e-3)


def test_at_first_the_critic_may_learn_alone(valued, task, batch) -> None:
    policy = valued.trainer.model
    mine = task({"kind": "ppo", "critic_warmup": 2}, policy, kl=NO_KL)
    inputs = mine.collate(batch)
    for step, learns in ((0, False), (1, False), (2, True)):
        mine.trainer.state.global_step = step
        policy.zero_grad()
        mine.loss_sum(policy, inputs).backward()
        moved = {name: bool(weight.grad.any()) for name, weight in policy.named_parameters()}
        assert any(moved[name] for name in moved if not is_of_critic(name)) == learns
        assert any(moved[name] for name in moved if is_of_critic(name))


def test_a_micro_batch_of_nothing_reaches_the_critic_too(valued) -> None:
    valued.loss_sum(valued.trainer.model, valued.collate([])).backward()
    assert all(weight.grad is not None for weight in critic_of(valued.trainer.model).parameters())
