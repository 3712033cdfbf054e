"""`fettle plan` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fettle.cli.main import app
from fettle.errors import DoesNotFit, UserError


def typed(*words: str) -> str:
    """What is printed; an error is raised as it is."""
    return CliRunner().invoke(app, ["plan", *words], catch_exceptions=False, standalone_mode=False).output


def test_the_plan_is_told_for_machines_too(root: Path) -> None:
    told = json.loads(typed(str(root / "recipes" / "smoke.yaml"), "--json", "--until", "domain"))

    (stage,) = told["stages"]
    assert told["fits"] and stage["steps"] == 4
    assert stage["peak"]["bytes"] == max(moment["total"] for moment in stage["moments"])


def test_what_does_not_fit_ends_with_the_code_of_it(root: Path) -> None:
    with pytest.raises(DoesNotFit, match="1000 CPU cores") as caught:
        typed(str(root / "recipes" / "smoke.yaml"), "--set", "cluster.workers=1000", "--until", "domain")
    assert caught.value.exit_code == 2


def test_without_a_recipe_it_says_what_it_wants() -> None:
    with pytest.raises(UserError, match="--fit"):
        typed()


def test_it_is_a_function_of_the_package_too(root: Path) -> None:
    import fettle.needs.preflight  # what is below it does not take its name

    assert fettle.plan(root / "recipes" / "smoke.yaml", until="domain").fits
