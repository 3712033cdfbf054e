"""docs/data.md: its examples are what they are said to be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fettle.data.check import inspect_sources
from fettle.data.formats import SHAPES, read_file
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = [
    (section.split("\n", 1)[0], block)
    for section in PAGE.split("\n### ")[1:]
    for block in re.findall(r"```jsonl\n(.*?)```", section, re.S)
]


def test_every_format_has_an_example():
    assert {name for name, _ in EXAMPLES} == {shape.name for shape in SHAPES}


def test_the_order_told_is_the_one_in_which_detection_tries_the_formats():
    told = PAGE.split("the first of these is taken: ")[1].split(".")[0].replace("\n", " ").split(", ")
    assert told == list(dict.fromkeys(shape.name for shape in SHAPES))


@pytest.mark.parametrize(("name", "block"), EXAMPLES)
def test_an_example_is_detected_as_its_heading_says(write, name, block):
    format_, records = read_file(write("a.jsonl", block))
    assert (format_.name, len(list(records))) == (name, len(block.splitlines()))


def test_the_mistakes_shown_are_those_of_the_command(write):
    file = write(
        "train.jsonl",
        '{"instruction": "Say hi.", "output": "Hi."}\n{"instruction": "Say bye.", "ouput": "Bye."}\n'
        '{"instruction": "Count.", "output": 3}\n{"instruction": "Sing.", "outp',
    )
    with pytest.raises(UserError) as caught:
        inspect_sources([DataSpec(path=str(file))], Path).raise_mistakes()
    told = str(caught.value).replace(f"{file.parent}/", "").splitlines()
    shown = PAGE.split("    train.jsonl: 3 mistakes\n")[1].split("\n\n")[0].splitlines()
    assert told[0] == "train.jsonl: 3 mistakes" and len(told[1:]) == len(shown)
    for line, as_shown in zip(told[1:], shown, strict=True):
        assert line.startswith(as_shown.removeprefix("    ").removesuffix("…"))
