"""The recipe's chat template: in place of the base's everywhere, and with an adapter from one recipe to the next."""

from __future__ import annotations

import pytest
from small_house import House, finish

from fettle.data.tokens import TokenSet
from fettle.errors import UserError
from fettle.models.base import load_tokenizer, resolve_template
from fettle.pipeline.graph import plan_stages
from fettle.pipeline.prepare import prepare

TASK = {"name": "task", "kind": "sft", "data": "chat.jsonl"}
NEXT = {"name": "next", "kind": "sft", "data": "general.jsonl"}
LORA = {"kind": "lora", "r": 4}
OTHER = (
    "{% for m in messages %}{{ m['role'] }}> {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant> {% endif %}"
)


def jobs(house: House):
    recipe = house.recipe()
    return prepare(recipe, plan_stages(recipe, house.out), house.out / "tokens")[0]


def first(house: House) -> str:
    """The first record as the last stage sees it."""
    job = jobs(house)[-1]
    tokenizer = load_tokenizer(job.base, job.chat_template)
    return tokenizer.decode(TokenSet(*job.tokens[0])[0].input_ids)


@pytest.fixture
def with_file(house):
    (house.folder / "other.jinja").write_text(OTHER)
    return house.with_stages(TASK, chat_template="other.jinja")


def test_the_recipes_template_takes_the_place_of_the_bases(house, with_file):
    assert first(house.with_stages(TASK)).startswith("<|im_start|>user\n")
    assert first(with_file) == "user> What is 0?<|end|>assistant> It is 0.<|end|>"


def test_the_end_tokens_and_the_job_are_those_of_the_recipes_template(with_file):
    (job,) = jobs(with_file)
    end = load_tokenizer(job.base).convert_tokens_to_ids("<|end|>")
    assert (job.end_ids, job.chat_template) == ((end,), OTHER)


def test_a_template_counts_in_the_fingerprint_by_its_text(house, with_file):
    plain, given = house.with_stages(TASK).fingerprints(), with_file.fingerprints()
    (house.folder / "same.jinja").write_text(OTHER)
    assert house.with_stages(TASK, chat_template="same.jinja").fingerprints() == given != plain
    (house.folder / "other.jinja").write_text(OTHER + " ")
    assert with_file.fingerprints() != given


def test_a_template_whose_end_is_no_token_of_the_base_is_told_before_anything_is_encoded(house):
    with pytest.raises(UserError) as caught:
        jobs(house.with_stages(TASK, chat_template="gemma"))
    told = str(caught.value)
    assert "recipe.yaml:" in told and "chat_template: this template ends answers with `<end_of_turn>`" in told
    assert not house.out.exists()


def test_a_template_that_is_nowhere_is_told_with_the_recipes_line(house):
    with pytest.raises(UserError, match=r"recipe.yaml:\d+: chat_template: no chat template 'nowhere'"):
        house.with_stages(TASK, chat_template="nowhere").plan()


@pytest.mark.parametrize("adapter", ["full", LORA])
def test_later_stages_keep_the_recipes_template(house, adapter):
    stages = house.with_stages(TASK, NEXT, chat_template="qwen", adapter=adapter).plan()
    assert [stage.origin.chat_template for stage in stages] == [resolve_template("qwen")] * 2


def test_an_adapter_that_a_later_recipe_goes_on_with_keeps_the_template_it_was_trained_with(house):
    (stage,) = house.with_stages(TASK, adapter=LORA).plan()
    artifact = finish(stage)
    (stage.artifact / "chat_template.jinja").write_text(OTHER)  # as training leaves it with a template of the recipe's
    goes_on = house.with_stages(NEXT | {"from": str(stage.artifact)}, adapter=LORA)
    (later,) = goes_on.plan()
    assert later.origin.root == house.folder / "base" and artifact.kind == "adapter"
    assert first(goes_on) == "user> What is 100?<|end|>assistant> It is 100.<|end|>"


def test_a_recipes_template_goes_before_the_adapters(house):
    (stage,) = house.with_stages(TASK, adapter=LORA).plan()
    finish(stage)
    (stage.artifact / "chat_template.jinja").write_text(OTHER)
    goes_on = house.with_stages(NEXT | {"from": str(stage.artifact)}, adapter=LORA, chat_template="chatml")
    assert first(goes_on).startswith("<|im_start|>user\n")
