"""Nothing is published whose parity is out of bounds, and which prompts that is found by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_house import House, chat, finish, lines

from fettle.errors import FettleError, GateFailed, Interrupted
from fettle.evaluate.parity import Facts, Parity, Speech
from fettle.pipeline import gate
from fettle.pipeline.gate import judge
from fettle.pipeline.parity_prompts import prompts_of, source_of
from fettle.recipe import Recipe
from fettle.registry.folder import FolderRegistry


def found(*causes: str) -> Parity:
    speech = Speech(None, "bbbb", 100)
    facts = Facts(speech, speech, 8, 8, 100, "LlamaForCausalLM", "float32")
    return Parity("instruct", "asked.jsonl", 0, "float32", facts, (), causes, 1.0)


@pytest.fixture
def published(house: House, monkeypatch: pytest.MonkeyPatch) -> tuple[Recipe, Path, FolderRegistry]:
    """A recipe that publishes its result, the result, and the registry, which is a real one."""
    registry = FolderRegistry(house.folder / "registry")
    monkeypatch.setattr(
        gate, "publish", lambda folder, *, registry, name, alias: FolderRegistry(registry).publish(name, folder)
    )
    house = House(house.folder, {**house.tree, "publish": {"registry": "registry"}})
    return house.recipe(), finish(house.plan()[-1]).path, registry


def test_a_result_that_the_engine_computes_right_is_published(published):
    recipe, result, registry = published
    verdict = judge(recipe, (), result, found)
    assert verdict.published == "northline:1" and verdict.parity == found() and registry.names() == ["northline"]


def test_one_that_it_does_not_is_kept_and_not_published(published):
    recipe, result, registry = published
    verdict = judge(recipe, (), result, lambda: found("the chat template: it was trained with another"))
    assert isinstance(verdict.why_not, GateFailed) and verdict.why_not.exit_code == 3
    assert "nothing is published: " in str(verdict.why_not) and "likely cause: the chat template" in str(
        verdict.why_not
    )
    assert verdict.parity is not None and verdict.published is None and not registry.is_there


def test_an_engine_that_fails_publishes_nothing(published):
    def fails() -> Parity:
        raise FettleError("the engine's process ended with 1")

    recipe, result, registry = published
    assert "ended with 1" in str(judge(recipe, (), result, fails).why_not) and not registry.is_there


def test_an_interrupt_meanwhile_is_one(published):
    def interrupted() -> Parity:
        raise Interrupted("SIGINT")

    recipe, result, _ = published
    with pytest.raises(Interrupted):
        judge(recipe, (), result, interrupted)


def test_parity_is_asked_of_what_would_be_published_alone(published):
    recipe, result, _ = published
    never: Any = None  # would fail if it were called
    assert judge(recipe.model_copy(update={"publish": None}), (), result, never).parity is None


def test_eight_prompts_are_the_same_in_any_order_of_the_records(house):
    def prompts() -> list[str]:
        house_of_chat = house.with_stages({"name": "instruct", "kind": "sft", "data": "chat.jsonl"})
        source = source_of(house_of_chat.recipe(), house_of_chat.plan())
        assert source is not None
        return [one.prompt.turns[0].content for one in prompts_of(source) if one.prompt is not None]

    before = prompts()
    (house.folder / "chat.jsonl").write_text(lines([chat(number) for number in reversed(range(20))] + [chat(3)]))
    assert len(set(before)) == 8 and prompts() == before


@pytest.mark.parametrize(
    ("more", "named"),
    [
        ({"evaluate": [{"kind": "loss", "data": "general.jsonl"}]}, "general.jsonl"),
        ({}, "chat.jsonl"),
        ({"merged": True}, "chat.jsonl"),
    ],
)
def test_the_prompts_are_those_of_the_evaluation_else_of_the_last_stage_that_learned(house, more, named):
    stages = [*house.tree["stages"], {"name": "merged", "kind": "merge"}] if more.pop("merged", False) else []
    house = House(
        house.folder, {**house.tree, "adapter": {"kind": "lora"}, **({"stages": stages} if stages else {}), **more}
    )
    source = source_of(house.recipe(), house.plan())
    assert source is not None and source.spec.path == named
