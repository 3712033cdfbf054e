"""What `ray job submit -- python jobs/pipeline.py …` runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture
def pipeline(root: Path):
    """jobs/pipeline.py as a module."""
    spec = importlib.util.spec_from_file_location("jobs_pipeline", root / "jobs" / "pipeline.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_job_writes_below_the_home_folder_since_its_own_goes_with_it(pipeline) -> None:
    words = pipeline.arguments(["recipes/demo.yaml", "--until", "domain"])

    assert words == ["run", "recipes/demo.yaml", "--until", "domain", "--out", str(Path.home() / "fettle/runs/demo")]


@pytest.mark.parametrize("given", [["r.yaml", "--out", "x"], ["r.yaml", "--out=x"]])
def test_an_out_that_is_given_stays(pipeline, given: list[str]) -> None:
    assert pipeline.arguments(given) == ["run", *given]
