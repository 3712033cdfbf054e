"""A stage that may end early is refused where no record is held out to measure on."""

from __future__ import annotations

from typing import Any

import pytest
from small_house import House, chat, lines

from fettle.errors import UserError
from fettle.pipeline.prepare import prepare

TASK = {"name": "task", "kind": "sft", "data": "same.jsonl", "early_stop": {"every": 2}}


@pytest.fixture
def same(house: House) -> House:
    """Records that are all the same, of which none can be held out."""
    (house.folder / "same.jsonl").write_text(lines([chat(7)] * 10))
    return house


def prepared(house: House) -> Any:
    return prepare(house.recipe(), house.plan(), house.out / "tokens")


def test_early_stopping_without_a_record_held_out_is_refused(same):
    with pytest.raises(UserError, match=r"stages\.task\.early_stop: no record is held out") as caught:
        prepared(same.with_stages(TASK))
    assert caught.value.line is not None


def test_a_stream_without_a_record_held_out_is_refused(same):
    with pytest.raises(UserError, match=r"stages\.task\.early_stop: no record is held out"):
        prepared(same.with_stages(TASK | {"streaming": True, "max_steps": 4}))


@pytest.mark.parametrize("keys", [{"heldout": {"data": "chat.jsonl"}}, {"data": "chat.jsonl"}])
def test_early_stopping_on_records_that_are_held_out_is_fine(same, keys):
    (job,), _ = prepared(same.with_stages(TASK | keys))
    assert job.spec.early_stop is not None


def test_without_early_stopping_nothing_needs_to_be_held_out(same):
    (job,), _ = prepared(same.with_stages({key: value for key, value in TASK.items() if key != "early_stop"}))
    assert job.heldout == ()
