"""The settings of a sweep's trials."""

from __future__ import annotations

import pytest

from fettle.errors import UserError
from fettle.tune.space import as_domain, as_settings, drawn_from, settings_of

LR = "stages.answer.lr"


def test_a_grid_is_every_combination_in_its_order(swept):
    space = {LR: {"choice": [1e-3, 1e-4]}, "adapter.r": {"int": [2, 4]}}
    recipe = swept(search="grid", trials=None, space=space)
    assert [(one[LR], one["adapter.r"]) for one in settings_of(recipe, recipe.sweep)] == [
        *((1e-3, 2), (1e-3, 3), (1e-3, 4)),
        *((1e-4, 2), (1e-4, 3), (1e-4, 4)),
    ]


def test_drawn_settings_are_distinct_within_bounds_and_the_same_again(swept):
    recipe = swept(trials=20)
    found = settings_of(recipe, recipe.sweep)
    assert len({one[LR] for one in found}) == 20
    assert all(1e-4 <= one[LR] <= 1e-2 for one in found)
    assert found == settings_of(recipe, recipe.sweep)


def test_more_trials_begin_with_the_same_ones(swept):
    fewer, more = (swept(trials=count) for count in (4, 9))
    assert settings_of(more, more.sweep)[:4] == settings_of(fewer, fewer.sweep)


def test_fewer_settings_than_trials_are_an_error_that_says_how_many_there_are(swept):
    recipe = swept(trials=5, space={"adapter.r": {"choice": [2, 4, 8]}})
    with pytest.raises(UserError, match="only 3 different settings") as raised:
        settings_of(recipe, recipe.sweep)
    assert raised.value.fix is not None and "trials: 3" in raised.value.fix


def test_what_a_search_draws_is_read_back_as_it_was_drawn(swept):
    """Choices are drawn by place, as one of them may be a list or keys."""
    space = {"adapter": {"choice": ["full", {"kind": "lora", "r": 4}]}, "seed": {"int": [3, 5]}}
    spec = swept(space=space).sweep
    settings = as_settings(spec.space, {"adapter": 1, "seed": 5.4})
    assert settings == {"adapter": {"kind": "lora", "r": 4}, "seed": 5}
    assert drawn_from(spec.space, settings) == {"adapter": 1, "seed": 5}


def test_tune_draws_whole_numbers_up_to_the_last_one(swept):
    domain = as_domain(swept(space={"adapter.r": {"int": [2, 4]}}).sweep.space["adapter.r"])
    assert set(domain.sample(size=200)) == {2, 3, 4}
