"""What is told of a mistake, and that it survives the way out of a Ray worker."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from fettle.errors import DoesNotFit, FettleError, Interrupted, StageFailed, UserError, did_you_mean

PARTS = {"file": Path("a.yaml"), "line": 3, "field": "stages.sft.lr", "expected": "a number", "fix": "write lr: 1e-5"}


def test_a_mistake_is_told_with_its_place_what_is_expected_and_how_to_fix_it():
    assert str(UserError("not a number", **PARTS)) == (
        "a.yaml:3: stages.sft.lr: not a number\n  expected: a number\n  fix: write lr: 1e-5"
    )


def test_parts_that_are_not_known_leave_no_trace():
    assert str(UserError("no such recipe")) == "no such recipe"
    assert str(UserError("not a number", field="lr")) == "lr: not a number"


@pytest.mark.parametrize("kind", [UserError, DoesNotFit])
def test_a_mistake_survives_pickling_with_its_parts(kind):
    again = pickle.loads(pickle.dumps(kind("not a number", **PARTS)))
    assert type(again) is kind and vars(again) == vars(kind("not a number", **PARTS))
    assert str(again) == str(kind("not a number", **PARTS))


@pytest.mark.parametrize("kind", [FettleError, StageFailed, Interrupted])
def test_the_other_errors_survive_pickling(kind):
    again = pickle.loads(pickle.dumps(kind("it broke")))
    assert (type(again), str(again)) == (kind, "it broke")


def test_each_error_has_its_exit_code():
    codes = {kind: kind.exit_code for kind in (FettleError, UserError, DoesNotFit, StageFailed, Interrupted)}
    assert list(codes.values()) == [1, 2, 2, 1, 130]


def test_the_nearest_word_is_suggested_and_a_far_one_is_not():
    assert did_you_mean("ephocs", ["epochs", "lr"]) == " (did you mean 'epochs'?)"
    assert did_you_mean("banana", ["epochs", "lr"]) == did_you_mean("x", []) == ""
