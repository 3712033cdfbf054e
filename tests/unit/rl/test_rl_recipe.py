"""`kind: rl` in a recipe: defaults that depend on other keys, and what is told of each mistake."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from fettle.recipe.algorithm import AlgorithmSpec, KlSpec
from fettle.recipe.rewards import RewardSpec
from fettle.recipe.rl import RlStage, RolloutSpec

KINDS = ["ppo", "grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline", "raft", "online_dpo"]
FUNCTION = {"function": "r.py:f"}


def said(make: Any, *args: Any, **told: Any) -> str:
    """The message of the mistake."""
    with pytest.raises(ValidationError) as caught:
        make(*args, **told)
    return str(caught.value.errors()[0]["msg"])


def reward(**told: Any) -> RewardSpec:
    return RewardSpec.model_validate(told)


def test_the_defaults_are_those_of_the_house(stage) -> None:
    made = stage("grpo")
    assert made.rollout == RolloutSpec(prompts=16, samples_per_prompt=8, max_new_tokens=64, temperature=1.0, top_p=1.0)
    assert (made.max_staleness, made.batch.sequences, made.steps_per_iteration, made.max_steps) == (0, 128, 1, 10)


@pytest.mark.parametrize("kind", KINDS)
def test_a_word_stands_for_the_kind_and_is_read_back_as_written(stage, kind) -> None:
    made = stage(kind)
    assert made.algorithm == AlgorithmSpec(kind=kind)
    assert RlStage.model_validate(made.model_dump(by_alias=True, exclude_unset=True)) == made


def test_a_default_that_is_spelt_out_is_the_same_setting(stage) -> None:
    spelt = stage(
        {"kind": "ppo", "gae_lambda": 0.95, "clip_high": 0.2},
        kl={"coef": 0.05, "in": "reward", "estimator": "k1"},
        batch={"sequences": 128},
        rewards=({"function": "rewards.py:polite", "weight": 1.0},),
    )
    assert spelt == stage("ppo")


@pytest.mark.parametrize(
    ("kind", "place", "estimator"),
    [
        ("ppo", "reward", "k1"),
        ("rloo", "reward", "k1"),
        ("reinforce_pp", "reward", "k1"),
        ("raft", "reward", "k1"),
        ("grpo", "loss", "k3"),
        ("dr_grpo", "loss", "k3"),
        ("reinforce_pp_baseline", "loss", "k2"),
    ],
)
def test_the_divergence_is_where_the_paper_has_it(stage, kind, place, estimator) -> None:
    kl = stage(kind).kl
    assert (kl.coef, kl.in_, kl.estimator, kl.target) == (0.05, place, estimator, None)
    other = "loss" if place == "reward" else "reward"
    assert stage(kind, kl={"in": other}).kl.in_ == other


def test_online_dpo_has_the_divergence_in_its_preferences(stage) -> None:
    kl = stage("online_dpo").kl
    assert (kl.coef, kl.in_, kl.estimator) == (0.1, None, None)
    assert stage("online_dpo", kl={"coef": 0.3, "target": 6.0}).kl.target == 6.0
    for keys in ({"coef": 0}, {"in": "loss"}, {"in": "reward"}, {"estimator": "k3"}):
        assert "online_dpo holds the divergence in its preferences" in said(stage, "online_dpo", kl=keys)


def test_no_divergence_has_no_other_keys(stage) -> None:
    assert stage("dr_grpo", kl={"coef": 0}).kl == KlSpec(coef=0.0)
    for key, value in (("in", "loss"), ("estimator", "k3"), ("target", 6.0)):
        assert f"{key} has no effect with coef: 0" in said(stage, "grpo", kl={"coef": 0, key: value})


def test_k1_in_the_loss_is_refused_for_its_gradient_is_0(stage) -> None:
    assert "k1 has no effect in the loss" in said(stage, "grpo", kl={"estimator": "k1"})
    assert stage("grpo", kl={"estimator": "k1", "in": "reward"}).kl.estimator == "k1"


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        ({"kind": "grpo", "gamma": 0.9}, "gamma has no effect with grpo; it belongs to ppo, reinforce_pp"),
        ({"kind": "rloo", "value_clip": 0.1}, "value_clip has no effect with rloo; it belongs to ppo"),
        ({"kind": "raft", "clip_low": 0.1}, "clip_low has no effect with raft; it belongs to ppo, grpo, dr_grpo"),
        ({"kind": "dr_grpo", "level": "sequence"}, "level has no effect with dr_grpo; it belongs to grpo, rloo"),
        ({"kind": "rloo", "average": "tokens"}, "average has no effect with rloo; it belongs to grpo"),
        ({"kind": "grpo", "dual_clip": 1.1}, "dual_clip 1.1 lies inside the clip, which ends at 1.2"),
        ({"kind": "grpo", "level": "sequence", "average": "tokens"}, "average: tokens goes with level: token"),
        ("gppo", "Input should be 'ppo', 'grpo'"),
    ],
)
def test_an_algorithms_key_without_effect_is_refused(stage, algorithm, message) -> None:
    assert message in said(stage, algorithm)


def test_the_critic_does_not_learn_alone_for_ever(stage) -> None:
    assert stage({"kind": "ppo", "critic_warmup": 9}).algorithm.critic_warmup == 9
    assert "critic_warmup 10 leaves the policy none" in said(stage, {"kind": "ppo", "critic_warmup": 10})
    assert "critic_warmup has no effect with grpo" in said(stage, {"kind": "grpo", "critic_warmup": 1})


def test_a_correction_may_be_switched_off(stage) -> None:
    made = stage({"kind": "ppo", "importance_cap": None, "value_clip": None}).algorithm
    assert (made.importance_cap, made.value_clip, stage("ppo").algorithm.importance_cap) == (None, None, 2.0)


@pytest.mark.parametrize("kind", ["grpo", "dr_grpo", "rloo", "reinforce_pp_baseline", "raft", "online_dpo"])
def test_answers_to_one_prompt_are_compared_where_there_are_several(stage, kind) -> None:
    assert f"{kind} compares the answers to a prompt" in said(stage, kind, rollout={"samples_per_prompt": 1})
    assert stage("reinforce_pp", rollout={"samples_per_prompt": 1}).num_learned == 16


@pytest.mark.parametrize(
    ("told", "sequences", "steps"),
    [
        ({"rollout": {"prompts": 4, "samples_per_prompt": 4}}, 16, 10),
        ({"rollout": RolloutSpec(prompts=4)}, 32, 10),
        ({"rollout": {"prompts": 4}, "batch": {"accumulate": 4}}, 32, 10),
        ({"batch": {"sequences": 32}}, 32, 40),
        ({"batch": {"sequences": 32}, "algorithm": {"kind": "ppo", "epochs": 3}}, 32, 120),
        ({"algorithm": "raft"}, 16, 10),
        ({"algorithm": "raft", "batch": {"sequences": 8}}, 8, 20),
        ({"algorithm": "online_dpo"}, 32, 10),
    ],
)
def test_the_number_of_steps_is_known_at_the_start(stage, told, sequences, steps) -> None:
    made = stage(**{"algorithm": "grpo"} | told)
    assert (made.batch.sequences, made.max_steps) == (sequences, steps)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"batch": {"sequences": 48}}, "batch.sequences 48 does not divide the 128 rollouts"),
        ({"batch": {"sequences": 256}}, "batch.sequences 256 does not divide the 128 rollouts"),
        ({"batch": {"tokens": 4096}}, "batch.tokens does not tell how many steps there will be"),
        ({"max_length": 64}, "max_length 64 leaves no room for a prompt before 64 new tokens"),
        ({"from": "task", "base": "tiny"}, "give either from"),
        ({"rewards": (FUNCTION, {"function": "other.py:f"})}, "two rewards are called f"),
        ({"rewards": ()}, "at least 1 item"),
        ({"rollout": {"temperature": 0}}, "greater than 0"),
        ({"environment": "calculator"}, "should match pattern"),
        ({"rollout": {"placement": "shared"}, "max_staleness": 1}, "shared has engines and learner take turns"),
        ({"prompts": {"path": "x.jsonl", "weight": 2.0}}, "weight has no effect here"),
        ({"data": "x.jsonl"}, "Extra inputs are not permitted"),
    ],
)
def test_settings_that_do_not_go_together_are_told(stage, told, message) -> None:
    assert message in said(stage, "grpo", **told)


@pytest.mark.parametrize(
    ("told", "kind", "part"),
    [
        ({"stage": "taste"}, "stage", "taste"),
        ({"stage": "../runs/taste"}, "stage", "taste"),
        ({"function": "rewards.py:polite"}, "function", "polite"),
        ({"builtin": "regex", "pattern": "x"}, "regex", "regex"),
        ({"url": "http://scores.example:80/score"}, "url", "scores.example"),
        ({"builtin": "format", "name": "tags"}, "format", "tags"),
    ],
)
def test_a_reward_is_called_after_what_it_is(told, kind, part) -> None:
    made = reward(**told)
    assert (made.kind, made.part) == (kind, part)
    assert RewardSpec.model_validate(made.model_dump()) == made


def test_a_rewards_own_keys_have_defaults() -> None:
    assert reward(builtin="exact_number").column == "answer"
    assert reward(builtin="format").tags == ("think", "answer")
    assert reward(builtin="length", max_tokens=100).cushion == 20
    assert (reward(url="http://x/").timeout_s, reward(url="http://x/").tries) == (30.0, 3)
    assert (reward(**FUNCTION).tries, reward(**FUNCTION).n) == (None, None)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "a reward is one of stage, function, builtin, url, and none is given"),
        (FUNCTION | {"stage": "taste"}, "not stage and function"),
        (FUNCTION | {"tries": 2}, "tries has no effect with function; it belongs to url"),
        ({"builtin": "regex", "pattern": "x", "n": 2}, "n has no effect with regex; it belongs to repetition"),
        ({"builtin": "regex"}, "regex needs pattern"),
        ({"builtin": "length"}, "length needs max_tokens"),
        ({"builtin": "length", "max_tokens": 10, "cushion": 11}, "cushion 11 is more than max_tokens 10"),
        ({"builtin": "regex", "pattern": "("}, "not a regular expression"),
        (FUNCTION | {"weight": 0.0}, "a reward of weight 0 has no effect"),
        (FUNCTION | {"clip": (1.0, -1.0)}, "1 is not below -1"),
        (FUNCTION | {"name": "a b"}, "make a name"),
        ({"function": "rewards.py"}, "should match pattern"),
        ({"url": "scores.example"}, "should match pattern"),
    ],
)
def test_a_mistake_in_a_reward_is_told(told, message) -> None:
    assert message in said(RewardSpec.model_validate, told)
