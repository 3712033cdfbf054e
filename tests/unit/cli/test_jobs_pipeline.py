"""What `ray job submit -- python jobs/pipeline.py …` runs, and jobs/generate.py and jobs/evaluate.py."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def job(root: Path, monkeypatch: pytest.MonkeyPatch):
    """`job("pipeline")`: jobs/pipeline.py as a module."""
    monkeypatch.syspath_prepend(root / "jobs")  # where Python finds what they share, when it runs one of them

    def load(name: str):
        spec = importlib.util.spec_from_file_location(f"jobs_{name}", root / "jobs" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def pipeline(job):
    return job("pipeline")


def test_a_job_writes_below_the_home_folder_since_its_own_goes_with_it(pipeline) -> None:
    words = pipeline.arguments(["recipes/demo.yaml", "--until", "domain"])

    assert words == ["run", "recipes/demo.yaml", "--until", "domain", "--out", str(Path.home() / "fettle/runs/demo")]


def test_a_sweep_has_a_folder_of_its_own(job) -> None:
    words = job("sweep").arguments(["recipes/sweep.yaml", "grid.yaml"])

    out = str(Path.home() / "fettle/sweeps/sweep")
    assert words == ["sweep", "recipes/sweep.yaml", "grid.yaml", "--out", out]


@pytest.mark.parametrize("given", [["r.yaml", "--out", "x"], ["r.yaml", "--out=x"]])
def test_an_out_that_is_given_stays(pipeline, given: list[str]) -> None:
    assert pipeline.arguments(given) == ["run", *given]


@pytest.mark.parametrize(
    ("data", "name"), [("asked/prompts.jsonl.gz", "prompts"), ("org/set", "set"), ("asked/*.jsonl", "answers")]
)
def test_answers_lie_below_the_home_folder_by_their_datas_name(job, data: str, name: str) -> None:
    words = job("generate").arguments(["tiny", data, "--limit", "3"])

    out = str(Path.home() / f"fettle/answers/{name}.jsonl")
    assert words == ["generate", "tiny", data, "--limit", "3", "--out", out]


def test_figures_lie_below_the_home_folder_by_their_models_name(job) -> None:
    words = job("evaluate").arguments(["runs/first/artifacts/task-1a/", "--data", "d.jsonl"])

    assert words[:2] == ["eval", "runs/first/artifacts/task-1a/"]
    assert words[-2:] == ["--out", str(Path.home() / "fettle/evals/task-1a.json")]
    assert job("evaluate").arguments([]) == ["eval"]


@pytest.mark.parametrize("given", [[], ["tiny"], ["tiny", "d.jsonl", "--out=x"]])
def test_what_the_command_is_to_judge_is_left_to_it(job, given: list[str]) -> None:
    assert job("generate").arguments(given) == ["generate", *given]


def test_a_node_without_fettle_is_told_in_one_message(root: Path, tmp_path: Path) -> None:
    (tmp_path / "fettle").mkdir()  # stands before the installed one, and has nothing in it
    (tmp_path / "fettle" / "__init__.py").touch()
    words = [sys.executable, root / "jobs" / "generate.py", "tiny", "d.jsonl"]

    done = subprocess.run(words, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path)})

    assert done.returncode == 1
    assert (
        done.stderr.startswith("jobs/generate.py: ") and "fix: start Ray there with fettle's environment" in done.stderr
    )
