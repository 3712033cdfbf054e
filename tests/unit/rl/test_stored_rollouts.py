"""An iteration's rollouts as a file: all of it is read again, and a run that was taken over writes none."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_rl import make_fence, take_over

from fettle.errors import FettleError
from fettle.rl.rollout import Judged
from fettle.rl.stored import read_rollouts, write_rollouts
from fettle.train.checkpoint import Fence


@pytest.fixture
def fence(tmp_path: Path) -> Fence:
    return make_fence(tmp_path)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "stage" / "rollouts" / "00000003.npz"


@pytest.fixture
def again(file: Path, fence: Fence) -> Any:
    """`again(rollouts)`: the same, written and read."""

    def again(*batch: Judged) -> list[Judged]:
        write_rollouts(file, batch, fence)
        return read_rollouts(file)[0]

    return again


def told(one: Any) -> dict[str, Any]:
    """All that a rollout or what was made of it says, arrays with their dtypes."""
    values = {field.name: getattr(one, field.name) for field in fields(one)}
    return {
        name: told(value) if name == "rollout" else _plain(value) if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }


def _plain(array: np.ndarray) -> tuple[Any, str]:
    return array.tolist(), array.dtype.name


def test_rollouts_of_any_lengths_are_read_as_they_were_written(again, judged) -> None:
    batch = [
        judged(0, 1.5, [1, 0, 1], logprobs=[-0.5, 0.0, -2.0], version=4, sample=1),
        judged(0, -0.1, [1], logprobs=np.array([-3.0], np.float32), finish="length", sample=2),
        judged(2, 0.0, [0, 1, 1, 1, 0], prompt_ids=np.array([9, 8, 7, 6], np.int32)),
    ]
    batch = [_in_float32(one) for one in batch]
    assert [told(one) for one in again(*batch)] == [told(one) for one in batch]


def test_a_single_rollout_is_read_as_it_was_written(again, judged) -> None:
    one = judged(0, 1.0, [1, 1])
    assert [told(found) for found in again(one)] == [told(one)]


def test_an_answer_without_tokens_is_none_of_its_neighbours(again, judged) -> None:
    batch = [judged(0, 1.0, [1, 1]), judged(1, 0.0, []), judged(2, 2.0, [1])]
    assert [len(one.rollout.output_ids) for one in again(*batch)] == [2, 0, 1]


def test_what_was_worked_out_of_rollouts_is_read_again(again, judged) -> None:
    more = {"old": [-1.0, 0.0, -3.0], "reference": [-1.5, 0.0, -2.5], "values": [0.25, 0.0, 0.75]}
    short = {"old": [-4.0], "reference": [-5.0], "values": [-6.0]}
    batch = [judged(0, 1.0, [1, 0, 1], **more), judged(1, 2.0, [1], **short)]
    assert [told(one) for one in again(*batch)] == [told(one) for one in batch]


@pytest.mark.parametrize("name", ["old", "reference", "values"])
def test_what_was_not_worked_out_stays_absent(again, judged, name) -> None:
    (found,) = again(judged(0, 1.0, [1], **{name: [-2.0]}))
    assert {of: getattr(found, of) is not None for of in ("old", "reference", "values")} == {
        of: of == name for of in ("old", "reference", "values")
    }


@pytest.mark.parametrize("text", ["", "“é”\n\t🚂", "\x00\x1b[2J", "\ud800", "a\u2028b"])
def test_texts_are_read_letter_for_letter(again, judged, text) -> None:
    found = again(judged(0, 1.0, [1], text=text), judged(0, 0.0, [1], text="next"))
    assert [one.rollout.text for one in found] == [text, "next"]


def test_rewards_are_read_to_the_last_bit_with_their_parts(again, judged) -> None:
    (found,) = again(judged(0, 0.1 + 0.2, [1]))
    assert (found.reward, found.parts) == (0.30000000000000004, {"a": 0.30000000000000004})


def test_what_else_was_told_is_read_again(file, fence, judged) -> None:
    more = {"seconds": {"sync": 0.5}, "probe": 0.001, "judges": {}, "prompts": {"0": "“Why?”"}, "wrote": None}
    write_rollouts(file, [judged(0, 1.0, [1])], fence, **more)
    assert read_rollouts(file)[1] == more


def test_a_second_writing_takes_the_place_of_the_first(file, fence, judged) -> None:
    write_rollouts(file, [judged(0, 1.0, [1]), judged(0, 2.0, [1])], fence, kl_coef=0.1)
    write_rollouts(file, [judged(0, 3.0, [1])], fence, kl_coef=0.2)
    found, more = read_rollouts(file)
    assert ([one.reward for one in found], more, [one.name for one in file.parent.iterdir()]) == (
        [3.0],
        {"kl_coef": 0.2},
        [file.name],
    )


def test_a_run_that_was_taken_over_writes_no_file(file, fence, judged) -> None:
    take_over(fence)
    with pytest.raises(FettleError, match="another run has taken over"):
        write_rollouts(file, [judged(0, 1.0, [1])], fence)
    assert list(file.parent.glob("[!.]*")) == []


def test_a_run_that_was_taken_over_leaves_the_later_runs_file_alone(file, fence, judged) -> None:
    take_over(fence)
    write_rollouts(file, [judged(0, 2.0, [1])], Fence(fence.file, "second"))
    before = file.read_bytes()
    with pytest.raises(FettleError, match="another run has taken over"):
        write_rollouts(file, [judged(0, 1.0, [1])], fence)
    assert file.read_bytes() == before


def _in_float32(one: Judged) -> Judged:
    """A rollout whose log-probabilities are what samplers give."""
    object.__setattr__(one.rollout, "logprobs", one.rollout.logprobs.astype(np.float32))
    return one
