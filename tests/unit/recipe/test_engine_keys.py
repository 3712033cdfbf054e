"""`rollout.placement` and `rollout.transfer`: with what they work, and what is told where not."""

from __future__ import annotations

import pytest

RECIPE = """name: learning
base: tiny
stages:
  - name: learn
    kind: rl
    algorithm: grpo
    prompts: x.jsonl
    rewards: [{{builtin: format}}]
    iterations: 1
    cluster: {{workers: 2, gpus_per_worker: {gpus}}}
    adapter: {adapter}
    rollout: {rollout}
"""


def recipe(rollout: str, gpus: int = 1, adapter: str = "full") -> str:
    return RECIPE.format(rollout=rollout, gpus=gpus, adapter=adapter)


def test_engines_share_no_more_gpus_than_there_are(told):
    said = told(recipe("{placement: shared, tensor_parallel: 3}"))
    assert said.startswith("recipe.yaml:12: stages.learn.rollout.placement")
    assert "want 3, and there are 2" in said


@pytest.mark.parametrize(("rollout", "gpus"), [("{engines: 2}", 1), ("{tensor_parallel: 2}", 1), ("{engines: 3}", 0)])
def test_engines_share_the_gpus_that_there_are(load, rollout, gpus):
    load(recipe(rollout.replace("}", ", placement: shared}"), gpus))


def test_an_adapter_is_not_broadcast(told, load):
    said = told(recipe("{transfer: broadcast}", adapter="lora"))
    assert said.startswith("recipe.yaml:12: stages.learn.rollout.transfer")
    assert "only the adapter travels, as a file" in said
    load(recipe("{transfer: broadcast}"))


def test_nothing_is_broadcast_within_one_gpu(told, load):
    both = "{placement: shared, transfer: broadcast}"
    assert "nccl does not join two processes of one GPU" in told(recipe(both))
    load(recipe(both, gpus=0))
