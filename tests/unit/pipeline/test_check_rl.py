"""What is refused of a stage of reinforcement learning before it starts, each with the line of the mistake."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from small_house import House, finish, lines

from fettle.artifact import new_artifact
from fettle.errors import UserError
from fettle.pipeline.prepare import prepare

LORA = {"kind": "lora", "r": 4}
TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl", "base": "base"}
TASTE = {"name": "taste", "kind": "reward", "data": "pairs.jsonl", "base": "base"}
ALIGN = {
    "name": "align",
    "kind": "rl",
    "algorithm": "grpo",
    "prompts": "prompts.jsonl",
    "rewards": [{"builtin": "repetition"}],
    "rollout": {"max_new_tokens": 64},
    "iterations": 5,
    "base": "base",
}
FROM_TASK = {key: value for key, value in ALIGN.items() if key != "base"} | {"from": "task"}
SMALL = {"num_hidden_layers": 1, "hidden_size": 32, "num_attention_heads": 1, "vocab_size": 512}


@pytest.fixture
def house(house: House) -> House:
    """The small house with 20 prompts and as many preferences, and a stage of GRPO with a built-in reward."""
    prompts = [{"prompt": [{"role": "user", "content": f"What is {i}?"}], "level": i} for i in range(20)]
    pairs = [{"prompt": f"What is {i}?", "chosen": f"It is {i}.", "rejected": "No."} for i in range(20)]
    (house.folder / "prompts.jsonl").write_text(lines(prompts))
    (house.folder / "pairs.jsonl").write_text(lines(pairs))
    return of_family(house.with_stages(ALIGN), "LlamaForCausalLM", model_type="llama", **SMALL, intermediate_size=32)


def refused(house: House, **overrides: Any) -> UserError:
    """What is said when the stages are planned and their jobs made."""
    with pytest.raises(UserError) as told:
        prepare(house.recipe(**overrides), house.plan(**overrides), house.out / "tokens")
    return told.value


def place(house: House, error: UserError) -> tuple[str | None, str]:
    """(field, the text of the recipe's line that is named) of a mistake in the recipe."""
    assert Path(str(error.file)) == house.folder / "recipe.yaml" and error.line is not None
    return error.field, house.file.read_text().splitlines()[error.line - 1].strip(" -")


def of_family(house: House, architecture: str, **config: Any) -> House:
    """The house, whose base is of that architecture."""
    told = {"architectures": [architecture], "max_position_embeddings": 128} | config
    (house.folder / "base" / "config.json").write_text(json.dumps(told))
    return house


def without_template(house: House) -> None:
    told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>"}
    (house.folder / "base" / "tokenizer_config.json").write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("keys", "field", "line"),
    [
        ({"rewards": [{"stage": "task"}]}, "rewards.0.stage", "stage: task"),
        ({"judges": [{"builtin": "regex", "pattern": "x"}, {"stage": "task"}]}, "judges.1.stage", "stage: task"),
        ({"algorithm": {"kind": "ppo", "critic": "task"}}, "algorithm.critic", "critic: task"),
    ],
    ids=["reward", "judge", "critic"],
)
def test_a_stage_that_scores_nothing_is_no_reward_model(house, keys, field, line):
    both = house.with_stages(TASK, ALIGN | keys)
    error = refused(both)
    assert place(both, error) == (f"stages.align.{field}", line)
    assert (error.got, error.expected) == (
        "'task' is a stage of kind sft, which scores no answers",
        "a stage of kind reward",
    )


@pytest.mark.parametrize(
    ("before", "expected"),
    [([], "an earlier stage of kind reward, or a reward model's folder"), ([TASTE], "taste")],
)
def test_a_reward_model_that_is_nowhere_is_told_with_those_that_are_there(house, before, expected):
    both = house.with_stages(*before, ALIGN | {"rewards": [{"stage": "test"}]})
    error = refused(both)
    assert place(both, error) == ("stages.align.rewards.0.stage", "stage: test")
    assert (error.got, error.expected) == ("no earlier stage, and no folder, 'test'", expected)


def test_a_reward_stage_that_comes_later_is_none(house):
    both = house.with_stages(ALIGN | {"rewards": [{"stage": "taste"}]}, TASTE)
    assert refused(both).got == "no earlier stage, and no folder, 'taste'"


def test_a_folder_of_another_kind_is_no_reward_model(house):
    folder = finish(house.with_stages(TASK | {"adapter": "full"}).plan()[0]).path
    both = house.with_stages(ALIGN | {"rewards": [{"stage": str(folder)}]})
    error = refused(both)
    assert place(both, error)[0] == "stages.align.rewards.0.stage"
    assert error.got.endswith("is of kind model, which scores no answers")


def test_a_folder_without_a_model_is_no_reward_model(house):
    (house.folder / "empty").mkdir()
    both = house.with_stages(ALIGN | {"rewards": [{"stage": "empty"}]})
    error = refused(both)
    assert place(both, error) == ("stages.align.rewards.0.stage", "stage: empty")
    assert error.got.startswith("no model in ")


def test_the_folder_of_a_reward_stages_artifact_is_a_reward_model(house):
    folder = house.folder / "judge"
    with new_artifact(
        folder, kind="reward", name="judge", fingerprint="a" * 64, base=None, metrics={"steps": 1}
    ) as made:
        shutil.copytree(house.folder / "base", made, dirs_exist_ok=True)
    (planned,) = house.with_stages(ALIGN | {"rewards": [{"stage": "judge"}]}).plan()
    assert planned.models == (("judge", folder),)


@pytest.mark.parametrize("kind", ["dora", "ia3", "prefix", "prompt", "bottleneck"])
def test_adapters_that_no_engine_applies_are_refused(house, kind):
    error = refused(house, stages__align__adapter=kind)
    assert error.field == "stages.align.adapter.kind"
    assert (error.got, error.expected) == (
        f"vLLM applies no {kind} adapters, and so cannot sample from this policy",
        "lora, full, freeze or lisa",
    )


def test_the_recipes_own_adapter_is_told_at_its_place(house):
    dora = house.with_stages(ALIGN, adapter={"kind": "dora", "r": 4})
    assert place(dora, refused(dora)) == ("adapter.kind", "kind: dora")


@pytest.mark.parametrize("adapter", ["full", "freeze", "lisa", LORA])
def test_policies_that_engines_can_take_are_not_refused(house, adapter):
    overrides = {"adapter": adapter, "stages__align__batch": {"sequences": 16}}  # 8 steps an iteration: lisa needs some
    (job,), _ = prepare(house.recipe(**overrides), house.plan(**overrides), house.out / "tokens")
    assert job.adapter.kind == (adapter if isinstance(adapter, str) else "lora")


def test_lora_is_refused_of_an_architecture_that_engines_have_none_of(house):
    stable = of_family(house, "StableLmForCausalLM", model_type="stablelm", **SMALL, intermediate_size=32)
    lora = stable.with_stages(ALIGN | {"adapter": LORA})
    error = refused(lora)
    assert place(lora, error) == ("stages.align.adapter.kind", "kind: lora")
    assert error.got.startswith("vLLM applies no adapters to StableLmForCausalLM")


def test_weights_in_8_bits_are_refused_for_sampler_and_learner_would_differ(house):
    eight = house.with_stages(ALIGN | {"adapter": LORA | {"bits": 8}})
    error = refused(eight)
    assert place(eight, error) == ("stages.align.adapter.bits", "bits: 8")
    assert (error.got.startswith("8 bits round"), error.expected) == (True, "bits: 4, or none")


def test_a_base_that_writes_no_text_is_refused(house):
    bert = of_family(house, "BertModel", model_type="bert", **SMALL)
    error = refused(bert)
    assert place(bert, error) == ("stages.align.base", "base: base")
    assert error.got == "base writes no text, token by token"


def test_packing_that_is_not_possible_is_refused(house):
    bloom = {"model_type": "bloom", "n_layer": 1, "hidden_size": 32, "n_head": 1, "vocab_size": 512}
    packed = of_family(house, "BloomForCausalLM", **bloom).with_stages(ALIGN | {"packing": True})
    error = refused(packed)
    assert place(packed, error) == ("stages.align.packing", "packing: true")
    assert error.got.startswith("packing is not possible here: a bloom model has ALiBi")


ZERO_3 = {"cluster": {"zero": 3, "workers": 2}, "adapter": "full", "merge_first": True}


def test_with_zero_3_a_reference_that_would_have_to_be_merged_is_refused(house):
    both = house.with_stages(TASK | {"adapter": LORA}, FROM_TASK | ZERO_3)
    finish(both.plan()[0])
    error = refused(both)
    assert place(both, error) == ("stages.align.from", "from: task")
    assert error.got == "with ZeRO 3 the reference cannot be merged from an adapter"


def test_with_zero_3_an_adapter_may_be_merged_where_there_is_no_reference(house):
    both = house.with_stages(TASK | {"adapter": LORA}, FROM_TASK | ZERO_3 | {"kl": {"coef": 0}})
    prepare(both.recipe(), both.plan(), both.out / "tokens")


def test_prompts_that_leave_no_room_are_refused_with_the_shortest(house):
    (house.folder / "prompts.jsonl").write_text(lines([{"prompt": "a" * 100}, {"prompt": "b" * 90}]))
    error = refused(house)
    assert place(house, error) == ("stages.align.prompts", "prompts: prompts.jsonl")
    # A byte a token: <|im_start|>user\n, 90 letters, <|im_end|>\n and <|im_start|>assistant\n are 6 + 90 + 2 + 11.
    assert error.got == (
        "of 2 prompts none has at most the 64 tokens that max_length 128 leaves beside rollout.max_new_tokens 64; the"
        " shortest has 109"
    )


def test_held_out_prompts_that_leave_no_room_are_told_at_their_own_place(house):
    (house.folder / "held.jsonl").write_text(lines([{"prompt": "a" * 100}]))
    held = house.with_stages(ALIGN | {"heldout": {"data": "held.jsonl"}})
    assert place(held, refused(held)) == ("stages.align.heldout.data", "data: held.jsonl")


def test_prompts_that_are_all_held_out_leave_nothing_to_learn_from(house):
    held = house.with_stages(ALIGN | {"heldout": {"data": "prompts.jsonl"}})
    error = refused(held)
    assert (error.got, place(held, error)[0]) == ("every prompt is held out", "stages.align.heldout")


@pytest.mark.parametrize("key", ["rewards", "judges"])
def test_prompts_without_the_right_answer_are_told_at_the_line_of_the_data(house, key):
    rows = [{"prompt": "1 + 1?", "solved": "2"}, {"prompt": "2 + 2?"}]
    (house.folder / "prompts.jsonl").write_text(lines(rows))
    error = refused(house.with_stages(ALIGN | {key: [{"builtin": "exact_number", "column": "solved"}]}))
    assert (Path(str(error.file)).name, error.line, error.field) == ("prompts.jsonl", 2, "solved")


def test_held_out_prompts_want_a_right_answer_too(house):
    (house.folder / "prompts.jsonl").write_text(lines([{"prompt": f"{i} + 1?", "solved": i + 1} for i in range(9)]))
    (house.folder / "held.jsonl").write_text(lines([{"prompt": "2 + 2?", "level": 1}]))
    keys = {"heldout": {"data": "held.jsonl"}, "rewards": [{"builtin": "exact_number", "column": "solved"}]}
    error = refused(house.with_stages(ALIGN | keys))
    assert (Path(str(error.file)).name, error.line) == ("held.jsonl", 1)


@pytest.mark.parametrize("key", ["rewards", "judges"])
@pytest.mark.parametrize("function", ["none.py:short", "rewards.py:long"])
def test_a_reward_function_that_is_not_there_is_told_at_the_recipes_line(house, key, function):
    (house.folder / "rewards.py").write_text("def short(prompts, completions): ...\n")
    missing = house.with_stages(ALIGN | {key: [{"function": function}]})
    assert place(missing, refused(missing)) == (f"stages.align.{key}.0.function", f"function: {function}")


@pytest.mark.parametrize("environment", ["none.py:Game", "game.py:Chess", "game.py:play"])
def test_an_environment_that_is_none_is_told_at_the_recipes_line(house, environment):
    (house.folder / "game.py").write_text("class Game: ...\n\ndef play(): ...\n")
    missing = house.with_stages(ALIGN | {"environment": environment})
    assert place(missing, refused(missing)) == ("stages.align.environment", f"environment: {environment}")


def test_an_environment_wants_a_base_with_a_chat_template(house):
    game = "class Game:\n    def reset(self, prompt): ...\n    def step(self, messages): ...\n"
    (house.folder / "game.py").write_text(game)
    (house.folder / "prompts.jsonl").write_text(lines([{"prompt": "1 + 1?"}]))
    without_template(house)
    plays = house.with_stages(ALIGN | {"environment": "game.py:Game"})
    error = refused(plays)
    assert place(plays, error) == ("stages.align.environment", "environment: game.py:Game")
    assert "has no chat template" in error.got
