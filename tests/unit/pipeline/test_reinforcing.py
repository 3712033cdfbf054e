"""A stage of reinforcement learning as a plan and a job: defaults, and what makes it another stage."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from small_house import House, lines

from fettle.models.base import BUNDLED
from fettle.pipeline.planned import PlannedRl
from fettle.pipeline.prepare import prepare
from fettle.pipeline.reinforcing import rl_precision
from fettle.recipe.cluster import ClusterSpec
from fettle.rl.job import RlJob

LORA = {"kind": "lora", "r": 4}
TASTE = {"name": "taste", "kind": "reward", "data": "pairs.jsonl"}
ALIGN = {
    "name": "align",
    "kind": "rl",
    "algorithm": "grpo",
    "prompts": "prompts.jsonl",
    "rewards": [{"function": "rewards.py:short"}],
    "iterations": 5,
    "base": "tiny",
}
REWARD = "def short(prompts, completions, **columns):\n    return [-len(one) for one in completions]\n"
GAME = "class Game:\n    def reset(self, prompt): ...\n    def step(self, messages): ...\n"


@pytest.fixture
def house(house: House) -> House:
    """The small house with prompts, preferences, a reward function and an environment, and a stage of GRPO."""
    prompts = [{"prompt": [{"role": "user", "content": f"What is {i}?"}], "level": i} for i in range(20)]
    pairs = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "No."} for i in range(20)]
    for name, content in {
        "prompts.jsonl": lines(prompts),
        "more.jsonl": lines(prompts[:3]),
        "pairs.jsonl": lines(pairs),
        "rewards.py": REWARD,
        "game.py": GAME,
    }.items():
        (house.folder / name).write_text(content)
    return house.with_stages(ALIGN)


def job_of(house: House, **overrides: Any) -> tuple[RlJob, list[str]]:
    """(the job of the last stage, what is told of the data)."""
    jobs, notes = prepare(house.recipe(**overrides), house.plan(**overrides), house.out / "tokens")
    return jobs[-1], notes


def changed(house: House, **overrides: Any) -> bool:
    """Whether the last stage is another one with these overrides."""
    return house.fingerprints()[-1] != house.fingerprints(**overrides)[-1]


def test_what_the_recipe_leaves_open_is_resolved_in_the_plan(house):
    (planned,) = house.plan()
    assert isinstance(planned, PlannedRl)
    assert (planned.precision, planned.max_length, planned.models, planned.critic, planned.heldout) == (
        *("fp32", 512),  # the bundled base's positions
        *((), None, None),
    )
    assert planned.artifact == house.out / "artifacts" / f"align-{planned.fingerprint[:12]}"


def test_a_job_has_all_that_workers_need(house):
    (job, _), (planned,) = job_of(house, seed=7), house.plan(seed=7)
    assert (job.fingerprint, job.seed, job.base, job.from_adapter) == (planned.fingerprint, 7, BUNDLED["tiny"], None)
    assert (job.packing, len(job.end_ids), job.recipe_folder) == (True, 2, house.folder)
    assert [file.name for source in job.prompts for file in source.files] == ["prompts.jsonl"]


def test_a_job_travels_to_a_worker(house):
    job, _ = job_of(house)
    assert pickle.loads(pickle.dumps(job)) == job


def test_paths_of_the_recipe_are_relative_to_it_on_workers_too(house):
    job, _ = job_of(house)
    assert job.resolve("rewards.py") == house.folder / "rewards.py"


def test_checkpoints_are_at_ends_of_iterations(house):
    # 128 rollouts an iteration in steps of 32 are 4 steps; 10 steps are rounded up to 12.
    job, _ = job_of(house, stages__align__batch={"sequences": 32})
    assert (job.save_every, job.spec.max_steps) == (12, 20)


def test_how_many_prompts_are_learned_from_is_told(house):
    assert job_of(house)[1] == ["stages.align: 19 prompts to learn from, 1 held out"]  # 2 % of 20, and at least one


def test_prompts_that_are_held_out_may_be_a_file(house):
    job, notes = job_of(house, stages__align__heldout={"data": "more.jsonl"})
    assert notes == ["stages.align: 17 prompts to learn from, 3 held out"]
    assert job.heldout_prompts is not None and job.heldout_prompts.files[0].name == "more.jsonl"


def test_prompts_that_are_too_long_are_left_out_and_told(house):
    long = {"prompt": [{"role": "user", "content": "What is that? " * 40}], "level": 0}
    file = house.folder / "prompts.jsonl"
    file.write_text(file.read_text() + lines([long]))
    _, notes = job_of(house, stages__align__max_length=128)
    assert notes == [
        "stages.align.prompts: of 21 prompts 1 are longer than 64 tokens, and left out",  # 128 − 64 new ones
        "stages.align: 19 prompts to learn from, 1 held out",
    ]


def test_several_files_of_prompts_are_learned_from_together(house):
    job, notes = job_of(house, stages__align__prompts=["prompts.jsonl", {"path": "more.jsonl", "limit": 2}])
    assert notes == ["stages.align: 21 prompts to learn from, 1 held out"]
    assert [name for name, _ in job.data] == ["prompts.jsonl", "more.jsonl", "rewards.py:short"]


def test_on_cpus_sampler_and_learner_are_exact_unless_the_recipe_says_otherwise(house, monkeypatch):
    monkeypatch.setattr("fettle.models.precision.has_fast_bf16", lambda: True)
    learns = {"name": "task", "kind": "sft", "data": "chat.jsonl", "base": "tiny"}
    both = house.with_stages(learns, ALIGN)
    assert [stage.precision for stage in both.plan()] == ["bf16", "fp32"]
    assert [stage.precision for stage in both.plan(cluster__precision="bf16")] == ["bf16", "bf16"]


def test_on_gpus_auto_is_what_it_is_of_any_stage():
    assert rl_precision(ClusterSpec(gpus_per_worker=1)) == "bf16"


def test_a_stage_goes_on_from_the_adapter_of_an_earlier_one(house):
    learns = {"name": "task", "kind": "sft", "data": "chat.jsonl", "base": "tiny"}
    begins = {key: value for key, value in ALIGN.items() if key != "base"} | {"from": "task"}
    both = house.with_stages(learns, begins, adapter=LORA)
    job, _ = job_of(both)
    assert (job.base, job.from_adapter, job.is_fresh) == (BUNDLED["tiny"], both.plan()[0].artifact, False)


def test_reward_models_are_folders_by_what_the_recipe_calls_them(house):
    stages = {"rewards": [{"stage": "taste"}], "judges": [{"stage": "taste", "name": "judge"}]}
    both = house.with_stages(TASTE | {"base": "tiny"}, ALIGN | stages)
    taste, align = both.plan()
    assert align.models == (("taste", taste.artifact),)


def test_a_critic_may_begin_as_the_reward_model_and_is_kept_with_what_is_learned_from(house):
    ppo = {"algorithm": {"kind": "ppo", "critic": "taste"}, "rewards": [{"stage": "taste"}]}
    both = house.with_stages(TASTE | {"base": "tiny"}, ALIGN | ppo)
    job, _ = job_of(both)
    assert (job.critic, job.learned_from) == (both.plan()[0].artifact, (both.plan()[0].artifact,))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("algorithm", "rloo"),
        ("algorithm", {"kind": "grpo", "clip_high": 0.28}),
        ("rollout", {"temperature": 0.9}),
        ("rollout", {"prompts": 8}),
        ("rollout", {"engines": 2}),
        ("kl", {"coef": 0.1}),
        ("lr", 1e-5),
        ("iterations", 6),
        ("max_staleness", 1),
        ("batch", {"sequences": 64}),
        ("max_length", 256),
        ("packing", False),
        ("heldout", {"fraction": 0.5}),
        ("heldout", {"data": "more.jsonl"}),
        ("prompts", ["prompts.jsonl", "more.jsonl"]),
        ("rewards", [{"function": "rewards.py:short", "weight": 2.0}]),
        ("judges", [{"builtin": "repetition"}]),
        ("environment", "game.py:Game"),
        ("adapter", LORA),
        ("cluster", {"cpus_per_worker": 2}),
        ("cluster", {"precision": "bf16"}),
    ],
)
def test_what_decides_the_numbers_makes_another_stage(house, key, value):
    assert changed(house, **{f"stages__align__{key}": value})


@pytest.mark.parametrize(
    "overrides",
    [
        {"stages__align__checkpoint": {"every": 3, "keep": 5}},
        {"stages__align__recorder": {"samples": 9, "batches": 3}},
        {"stages__align__gap": {"warn": 0.1, "stop": 1.0}},
        {"stages__align__rollout": {"sync_timeout_s": 9.0}},
        {"stages__align__prompts": [{"path": "./prompts.jsonl"}]},
        {"stages__align__max_length": 512},  # the base's positions: the default
        {"stages__align__kl": {"coef": 0.05, "in": "loss", "estimator": "k3"}},  # GRPO's own
        {"stages__align__cluster": {"workers": 2, "zero": 2, "precision": "fp32"}},  # as the default is resolved
        {"name": "another"},
    ],
)
def test_what_decides_no_number_leaves_it_the_same_stage(house, overrides):
    assert not changed(house, **overrides)


def test_a_stages_name_is_not_in_its_fingerprint(house):
    assert not changed(house, stages__align__name="other")


@pytest.mark.parametrize("name", ["rewards.py", "game.py", "judges.py", "prompts.jsonl", "more.jsonl"])
def test_every_file_that_decides_rewards_or_prompts_counts_by_its_content(house, name):
    (house.folder / "judges.py").write_text(REWARD.replace("short", "brief"))
    keys = {
        "environment": "game.py:Game",
        "judges": [{"function": "judges.py:brief"}],
        "heldout": {"data": "more.jsonl"},
    }
    house = house.with_stages(ALIGN | keys)
    before = house.fingerprints()
    file = house.folder / name
    file.write_text(file.read_text() + "\n")
    assert house.fingerprints() != before


def test_prompts_count_by_their_content_wherever_they_lie(house):
    before = house.fingerprints()
    (house.folder / "deep").mkdir()
    (house.folder / "prompts.jsonl").rename(house.folder / "deep" / "asked.jsonl")
    assert house.fingerprints(stages__align__prompts="deep/asked.jsonl") == before


@pytest.mark.parametrize(
    "uses",
    [
        {"rewards": [{"stage": "taste"}]},
        {"judges": [{"stage": "taste"}]},
        {"algorithm": {"kind": "ppo", "critic": "taste"}},
    ],
    ids=["reward", "judge", "critic"],
)
def test_another_reward_model_makes_another_stage(house, uses):
    both = house.with_stages(TASTE | {"base": "tiny"}, ALIGN | uses)
    assert changed(both, stages__taste__lr=1e-3)


def test_a_reward_stage_that_nobody_asks_changes_nothing(house):
    assert not changed(house.with_stages(TASTE | {"base": "tiny"}, ALIGN), stages__taste__lr=1e-3)


def test_another_earlier_stage_makes_another_stage(house):
    begins = {key: value for key, value in ALIGN.items() if key != "base"} | {"from": "task"}
    both = house.with_stages({"name": "task", "kind": "sft", "data": "chat.jsonl", "base": "tiny"}, begins)
    assert changed(both, stages__task__lr=1e-3)


def test_another_instruction_set_or_library_makes_other_numbers(house, monkeypatch):
    before = house.fingerprints()
    monkeypatch.setattr("fettle.pipeline.planned.instruction_set", lambda: "riscv/VECTOR")
    other = house.fingerprints()
    monkeypatch.setattr("fettle.pipeline.planned.library_versions", lambda: {"vllm": "9"})
    assert len({*before, *other, *house.fingerprints()}) == 3
