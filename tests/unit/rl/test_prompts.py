"""The prompts of a stage: in which order they come, which are held out, and what records become."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fettle.data.record import Prompt as Asked
from fettle.data.record import Record
from fettle.data.sources import open_source
from fettle.errors import UserError
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.recipe.data import DataSpec, HeldoutSpec
from fettle.rl.prompts import Prompt, Prompts, draw_seed, prompts_in, split_prompts

QUESTION = {"role": "user", "content": "Why?"}
ANSWER = {"role": "assistant", "content": "So."}
CHATML = "<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_tokenizer(BUNDLED["tiny"])


@pytest.fixture
def read(tmp_path: Path, tokenizer: Any) -> Any:
    """`read(row, …, **how the source is read)`: the prompts in a file of these rows."""

    def read(*rows: dict[str, Any], **told: Any) -> list[Prompt]:
        (tmp_path / "p.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        source = open_source(DataSpec(path="p.jsonl", **told), lambda path: tmp_path / path)
        return list(prompts_in(source, tokenizer))

    return read


def numbered(count: int) -> list[Prompt]:
    """Prompts of one token, which is the prompt's number."""
    return [Prompt(Record(Path("p"), i + 1, prompt=Asked(())), np.array([i], np.int32)) for i in range(count)]


def numbers(prompts: Any) -> list[int]:
    return [int(one.ids[0]) for one in prompts]


def drawn(prompts: Prompts, iterations: int, count: int) -> list[int]:
    return [number for i in range(iterations) for number in numbers(prompts.of(i, count))]


def test_every_prompt_comes_once_before_one_comes_again() -> None:
    found = drawn(Prompts(numbered(5), [], seed=0), iterations=5, count=3)  # 15 = three passes over five
    assert [sorted(found[first : first + 5]) for first in (0, 5, 10)] == [[0, 1, 2, 3, 4]] * 3


def test_an_iteration_of_more_prompts_than_there_are_takes_some_of_them_again() -> None:
    found = numbers(Prompts(numbered(2), [], seed=0).of(0, 5))
    assert (sorted(found[:2]), sorted(found[2:4]), len(found)) == ([0, 1], [0, 1], 5)


def test_each_pass_has_an_order_of_its_own() -> None:
    found = drawn(Prompts(numbered(20), [], seed=0), iterations=2, count=20)
    assert found[:20] != found[20:]


def test_the_order_depends_on_the_seed_alone() -> None:
    one, same, other = (drawn(Prompts(numbered(20), [], seed), iterations=4, count=10) for seed in (1, 1, 2))
    assert one == same != other


def test_prompts_of_an_iteration_do_not_depend_on_what_was_asked_before() -> None:
    whole = drawn(Prompts(numbered(7), [], seed=4), iterations=6, count=3)
    assert numbers(Prompts(numbered(7), [], seed=4).of(5, 3)) == whole[15:]


def test_held_out_prompts_are_never_learned_from() -> None:
    split = split_prompts(numbered(100), None, None, seed=0)
    assert len(split.heldout) == 2  # 2 % of 100
    assert sorted(numbers(split.trained) + numbers(split.heldout)) == list(range(100))


def test_which_prompts_are_held_out_depends_on_neither_their_order_nor_the_seed() -> None:
    spec = HeldoutSpec(fraction=0.3)
    one, other = split_prompts(numbered(20), None, spec, 0), split_prompts(numbered(20)[::-1], None, spec, 7)
    assert len(one.heldout) == 6
    assert set(numbers(one.heldout)) == set(numbers(other.heldout))


def test_equal_prompts_fall_on_one_side() -> None:
    split = split_prompts([*numbered(10), *numbered(10)], None, HeldoutSpec(fraction=0.3), seed=0)
    assert not set(numbers(split.trained)) & set(numbers(split.heldout))


def test_prompts_of_a_held_out_file_are_not_learned_from() -> None:
    split = split_prompts(numbered(5), numbered(2), None, seed=0)
    assert (numbers(split.trained), numbers(split.heldout)) == ([2, 3, 4], [0, 1])


def test_a_conversation_asks_without_its_last_answer(read, tokenizer) -> None:
    earlier = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}]
    one, two = read({"messages": [QUESTION, ANSWER]}, {"messages": [*earlier, QUESTION, ANSWER]})
    before = "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\nI.<|im_end|>\n"
    assert [tokenizer.decode(prompt.ids) for prompt in (one, two)] == [CHATML, before + CHATML]


def test_what_asks_the_same_has_the_same_tokens_whatever_its_record_is_like(read) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": [QUESTION]},
        {"messages": [QUESTION, ANSWER]},
        {"prompt": "Why?", "completion": "So."},
        {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
    ]
    found = [prompt for row in rows for prompt in read(row)]
    assert len({tuple(prompt.ids.tolist()) for prompt in found}) == 1


def test_the_answer_of_a_prompt_with_one_is_a_column(read) -> None:
    (found,) = read({"prompt": "2 + 2?", "completion": "#### 4"})
    assert (found.record.kind, found.record.columns["answer"]) == ("prompt", "#### 4")


def test_the_columns_beside_an_answer_are_kept(read) -> None:
    (found,) = read({"prompt": [QUESTION], "answer": 4, "level": "easy"})
    assert {name: found.record.columns[name] for name in ("answer", "level")} == {"answer": 4, "level": "easy"}


def test_the_columns_of_a_prompt_are_kept(read) -> None:
    (found,) = read({"prompt": [QUESTION], "level": "easy", "tests": [1, 2]})
    assert {name: found.record.columns[name] for name in ("level", "tests")} == {"level": "easy", "tests": [1, 2]}


def test_a_preference_has_no_answer(read) -> None:
    (found,) = read({"prompt": "Why?", "chosen": "So.", "rejected": "No."})
    assert (found.record.kind, dict(found.record.columns)) == ("prompt", {})


def test_a_text_asks_nothing_and_is_refused_with_its_file_and_line(read) -> None:
    with pytest.raises(UserError) as caught:
        read({"text": "Once upon a time"}, {"text": "there was"})
    assert (caught.value.file.name, caught.value.line) == ("p.jsonl", 1)
    assert "a record of kind text that asks nothing" in str(caught.value)


def test_a_bad_record_is_left_out_where_the_source_says_so(read) -> None:
    found = read({"prompt": "Why?"}, {"prompt": 3}, {"prompt": "Who?"}, on_bad_record="skip")
    assert [prompt.record.line for prompt in found] == [1, 3]


def test_prompts_are_in_the_order_of_the_file_whatever_is_rendered_together(read) -> None:
    found = read(*({"prompt": f"What is {number}?"} for number in range(300)))  # more than are rendered at once
    assert [prompt.record.line for prompt in found] == list(range(1, 301))


def test_a_seed_is_the_same_in_every_run() -> None:
    assert draw_seed(3, "iteration 1", 2) == 1429120459


def test_seeds_have_31_bits() -> None:
    found = [draw_seed(0, place) for place in range(1000)]
    assert min(found) >= 0 and 2**30 < max(found) < 2**31


def test_every_place_of_every_run_has_a_seed_of_its_own() -> None:
    places = [(seed, f"iteration {i}", prompt) for seed in (0, 1) for i in range(20) for prompt in range(20)]
    assert len({draw_seed(*place) for place in places}) == 800


def test_neighbouring_parts_of_a_place_do_not_run_together() -> None:
    assert draw_seed(0, 1, 11) != draw_seed(0, 11, 1) and draw_seed(0, "1", 1) != draw_seed(0, 1, 1)
