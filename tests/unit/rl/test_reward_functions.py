"""A user's reward function: what it is given, and what is told of each of its mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fettle.data.record import Message, Prompt, Record
from fettle.errors import UserError
from fettle.rl.rewards.function import FunctionScorer

PLAIN = Record(
    Path("p.jsonl"), 1, prompt=Prompt((Message("user", "Why?"),), ("Why?",)), columns={"prompt": "Why?", "level": 3}
)
TURNS = (Message("system", "Be brief."), Message("user", "Why?"))
CHAT = Record(Path("p.jsonl"), 2, prompt=Prompt(TURNS), columns={"topic": "sky"})
Write = Callable[[str], FunctionScorer]


@pytest.fixture
def scorer(tmp_path: Path) -> Write:
    """`scorer(source)`: of the function `f` in a file with that content."""

    def write(source: str, name: str = "f") -> FunctionScorer:
        (tmp_path / "rewards.py").write_text(source)
        where = {"file": "recipe.yaml", "line": 9, "field": "stages.align.rewards.0.function"}
        return FunctionScorer(f"rewards.py:{name}", lambda path: tmp_path / path, **where)

    return write


@pytest.fixture
def told(scorer: Write, rollout: Any, tmp_path: Path) -> Callable[..., str]:
    """`told(source)`: the message of the mistake in it, without the folder."""

    def told(source: str, **more: Any) -> str:
        with pytest.raises(UserError) as caught:
            scorer(source, **more).score([rollout(0), rollout(0, 1)], [PLAIN])
        return str(caught.value).replace(f"{tmp_path}/", "")

    return told


def test_a_function_is_given_prompts_completions_and_columns(scorer, rollout) -> None:
    source = "seen = []\ndef f(prompts, completions, **columns):\n    seen.append((prompts, completions, columns))\n"
    made = scorer(source + "    return [0.5, True, 2]\n")

    found = made.score([rollout(0, 0, text="a"), rollout(0, 1, text="b"), rollout(1, 0, text="c")], [PLAIN, CHAT])

    assert found == [0.5, 1.0, 2.0]
    ((prompts, completions, columns),) = made._function.__globals__["seen"]
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert prompts == ["Why?", "Why?", turns]
    assert completions == ["a", "b", [{"role": "assistant", "content": "c"}]]
    assert columns == {"level": [3, 3, None], "topic": [None, None, "sky"]}


def test_a_function_is_given_only_the_columns_it_names(scorer, rollout) -> None:
    made = scorer("def f(prompts, completions, level):\n    return [l * len(c) for l, c in zip(level, completions)]")
    assert made.score([rollout(text="ab"), rollout(text="")], [PLAIN]) == [6.0, 0.0]


@pytest.mark.parametrize(
    "returned",
    ["numpy.array([1, 2])", "numpy.array([1.0, 2.0], 'float32')", "torch.tensor([1, 2])", "(1, numpy.int64(2))"],
)
def test_a_function_may_return_arrays(scorer, rollout, returned) -> None:
    made = scorer(f"import numpy, torch\ndef f(prompts, completions, **_): return {returned}")
    assert made.score([rollout(), rollout()], [PLAIN]) == [1.0, 2.0]


def test_a_function_that_raises_is_told_at_its_own_line(told) -> None:
    source = "def g(x):\n    return 1 / x\n\n\ndef f(prompts, completions, **_):\n    return [g(0) for _ in prompts]\n"
    assert told(source).startswith("rewards.py:2: f raised ZeroDivisionError: division by zero")


def test_a_function_that_fails_in_a_library_is_told_at_the_line_that_called_it(told) -> None:
    source = "import json\n\n\ndef f(prompts, completions, **_):\n    return json.loads('no')\n"
    assert told(source).startswith("rewards.py:5: f raised JSONDecodeError")


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ("[1.0]", "the reward function f gave 1 rewards for 2 answers"),
        ("[1.0, float('nan')]", "the reward function f gave nan as the reward of answer 1"),
        ("[float('inf'), 1]", "the reward function f gave inf as the reward of answer 0"),
        ("[1.0, None]", "the reward function f gave None as the reward of answer 1"),
        ("[1.0, '2']", "the reward function f gave '2' as the reward of answer 1"),
        ("0.5", "the reward function f gave 0.5"),
        ("None", "the reward function f gave None"),
        ("{0: 1, 1: 2}", "the reward function f gave a dict"),
    ],
)
def test_what_is_no_list_of_rewards_is_told(told, returned, message) -> None:
    said = told(f"\ndef f(prompts, completions, **_):\n    return {returned}\n")
    assert said.startswith(f"rewards.py:2: {message}")
    assert "a list of 2 finite numbers, one for each answer" in said


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("def f(prompts, answers): return [1, 1]", "rewards.py:1: f does not take prompts and completions"),
        ("async def f(prompts, completions, **_): return [1, 1]", "rewards.py:1: f is async"),
        ("def f(prompts, completions, **_): return [1,", "rewards.py:1: this file does not run: SyntaxError"),
        ("import nothing_of_that_name", "rewards.py:1: this file does not run: ModuleNotFoundError"),
        ("def ff(prompts, completions, **_): return [1, 1]", "nothing to call that is named f (did you mean 'ff'?)"),
        ("f = 3", "has nothing to call that is named f"),
    ],
)
def test_a_function_that_cannot_be_asked_is_told(told, source, message) -> None:
    assert message in told(source)


def test_a_missing_column_is_told_with_those_that_are_there(told) -> None:
    said = told("def f(prompts, completions, answer): return [1, 1]")
    assert "f raised TypeError" in said and "answer" in said
    assert "fix: the records have the columns level" in said


def test_a_missing_file_is_told_at_the_recipes_line(tmp_path) -> None:
    with pytest.raises(UserError) as caught:
        FunctionScorer("rewards.py:f", lambda path: tmp_path / path, file="recipe.yaml", line=9, field="rewards.0")
    assert str(caught.value).startswith("recipe.yaml:9: rewards.0: no file")
