"""The graph of a run's stages: its edges, what they are in words, and where its lines lie."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from small_house import House

from fettle.pipeline.origin import Origin
from fettle.pipeline.stage_graph import ROW, Edge, drawing, edges_of, made_from

LORA = {"kind": "lora", "r": 4}
DEMO = (
    Edge("tiny", "domain", "from"),
    Edge("domain", "instruct", "from"),
    Edge("tiny", "taste", "from"),
    Edge("instruct", "align", "from"),
    Edge("taste", "align", "reward"),
    Edge("taste", "align", "critic"),
)


def edges(house: House, **overrides: object) -> list[tuple[str, str, str]]:
    return [(one.parent, one.child, one.role) for one in edges_of(house.plan(**overrides))]


def test_stages_are_made_from_the_base_and_from_each_other(house: House) -> None:
    assert edges(house) == [("base", "domain", "from"), ("domain", "instruct", "from")]


def test_a_teacher_a_reward_model_and_a_critic_are_parents_too(house: House) -> None:
    house = house.with_stages(
        {"name": "one", "kind": "sft", "data": "chat.jsonl"},
        {"name": "two", "kind": "distill", "data": "chat.jsonl", "teacher": "one", "base": "base"},
        {"name": "taste", "kind": "reward", "data": "chat.jsonl", "from": "one"},
        {
            "name": "align",
            "kind": "rl",
            "prompts": "chat.jsonl",
            "rewards": [{"stage": "taste"}],
            "from": "two",
            "algorithm": {"kind": "ppo", "critic": "taste"},
            "iterations": 1,
        },
    )
    assert edges(house) == [
        ("base", "one", "from"),
        ("base", "two", "from"),
        ("one", "two", "teacher"),
        ("one", "taste", "from"),
        ("two", "align", "from"),
        ("taste", "align", "reward"),
        ("taste", "align", "critic"),
    ]


def test_a_merge_is_made_from_all_of_its_adapters(house: House) -> None:
    stages = [{"name": name, "kind": "sft", "data": "chat.jsonl", "base": "base"} for name in ("one", "two")]
    house = house.with_stages(*stages, {"name": "both", "kind": "merge", "adapters": ["one", "two"]}, adapter=LORA)
    assert edges(house)[2:] == [("one", "both", "merged"), ("two", "both", "merged")]


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("hub/models--acme--night-train/snapshots/0123abcd", "acme/night-train"),
        ("elsewhere/tiny", "tiny"),
        ("elsewhere/domain", "elsewhere/domain"),  # as one of the stages is called
    ],
)
def test_a_model_from_elsewhere_has_the_name_it_is_known_by(house: House, folder: str, name: str) -> None:
    stage = replace(house.plan()[0], origin=Origin(Path(folder), Path(folder), "identity"))
    assert edges_of([stage]) == (Edge(name, "domain", "from"),)


def test_in_words_each_parent_is_named_once() -> None:
    assert made_from("align", DEMO) == "from instruct · reward, critic taste"


def test_models_from_elsewhere_stand_before_the_first_stage_that_needs_them() -> None:
    assert drawing(["domain", "instruct", "taste", "align"], DEMO).names == (
        *("tiny", "domain", "instruct", "taste", "align"),
    )


def test_neighbours_are_joined_straight_and_others_around_what_lies_between() -> None:
    drawn = drawing(["domain", "instruct", "taste", "align"], DEMO)
    x, lines = drawn.dots[0][0], [line.path for line in drawn.lines]
    assert [line.startswith(f"M{x} ") for line in lines] == [True, True, False, False, True]
    assert [line.is_side for line in drawn.lines] == [False, False, False, False, True]
    assert [y for _, y in drawn.dots] == [20 + ROW * row for row in range(5)]
    # tiny → taste spans instruct → align's first row: two lanes of 18.
    assert [f"Q{x - 36} " in lines[2], f"Q{x - 18} " in lines[3]] == [True, True]


def test_lines_that_share_no_row_share_a_lane() -> None:
    names = ["a", "b", "c", "d", "e"]
    skips = [Edge("a", "c", "from"), Edge("c", "e", "from")]
    assert drawing(names, skips).width == drawing(names, skips[:1]).width


def test_thirty_variants_of_one_stage_are_drawn() -> None:
    names = ["root", *(f"variant-{number}" for number in range(30))]
    drawn = drawing(names, [Edge("root", name, "from") for name in names[1:]])
    assert len({line.path for line in drawn.lines}) == 30 and drawn.width < 100
