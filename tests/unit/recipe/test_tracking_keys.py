"""`tracking`: an address, a folder, keys, or off."""

from __future__ import annotations

import pytest

from fettle.recipe.tracking import TrackingSpec

RECIPE = "name: a\nstages: [{name: s, kind: sft, data: x.jsonl}]\n"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", TrackingSpec()),
        ("tracking: off", "off"),  # which YAML reads as false
        ("tracking: 'off'", "off"),
        ("tracking: https://mlflow.example:5000", TrackingSpec(uri="https://mlflow.example:5000")),
        ("tracking: shared/tracker", TrackingSpec(uri="shared/tracker")),
        ("tracking: {experiment: trains}", TrackingSpec(experiment="trains")),
    ],
)
def test_each_way_to_say_it_is_understood(load, text, meant):
    assert load(RECIPE + text).tracking == meant


def test_it_can_be_set_from_the_command_line(load):
    assert load(RECIPE, tracking="off").tracking == "off"
    assert load(RECIPE, tracking__uri="http://127.0.0.1:5000").tracking == TrackingSpec(uri="http://127.0.0.1:5000")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("tracking: ftp://mlflow.example", "ftp:// is neither a server (https://…) nor a database file (sqlite:///…)"),
        ("tracking: https://me:secret@mlflow.example", "a password does not belong here; MLFLOW_TRACKING_USERNAME"),
        ("tracking: {url: https://mlflow.example}", "url"),
        ("tracking: true", "tracking"),
    ],
)
def test_what_is_meant_by_nothing_is_a_mistake_with_its_line(told, text, why):
    said = told(RECIPE + text)
    assert said.startswith("recipe.yaml:3: tracking") and why in said
