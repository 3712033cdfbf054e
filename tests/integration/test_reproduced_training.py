"""A run that is trained twice comes to the same bits, adapters and all. In this process: Ray takes half a minute."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fettle.artifact import read_artifact
from fettle.pipeline import runner
from fettle.pipeline.reproduce import reproduce
from fettle.train.job import GroupMember, Job
from fettle.train.worker import run_member

SETTINGS = {"tracking": "off", "cluster.precision": "fp32"} | {
    f"stages.{stage}.max_steps": 2 for stage in ("domain", "instruct")
}


@pytest.fixture
def runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of `first`, a run of the smoke recipe, whose licence is told beside its data."""

    def train_here(waiting: Any, jobs: Sequence[Job], functions: Any, fence: Any, *_: Any) -> None:
        for stage, job in zip(waiting, jobs, strict=True):
            run_member([(job, functions[stage.spec.kind])], GroupMember(0, 1, stage.cluster, fence), None)

    monkeypatch.setattr(runner, "train", train_here)
    recipe = tmp_path / "smoke.yaml"
    shutil.copy(root / "recipes" / "smoke.yaml", recipe)
    shutil.copytree(root / "recipes" / "northline", tmp_path / "northline")
    (tmp_path / "northline" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    runner.run(recipe, out=tmp_path / "runs" / "first", set=SETTINGS)
    recipe.unlink()
    return tmp_path / "runs"


def test_the_second_run_has_the_same_weights_and_files(runs: Path) -> None:
    told = reproduce("first", runs=runs)
    assert told.verdict == "the very same: all weights, bit for bit"
    assert [(stage.name, stage.others, stage.largest) for stage in told.stages] == [
        ("domain", (), 0.0),
        ("instruct", (), 0.0),
    ]

    domain, instruct = (next(runs.glob(f"first/artifacts/{name}-*")) for name in ("domain", "instruct"))
    assert read_artifact(domain).licences == ("apache-2.0", "cc-by-4.0")  # of the bundled base, and of the data
    assert read_artifact(instruct).licences == ("apache-2.0", "cc-by-4.0")
    assert read_artifact(instruct).code.startswith(("commit ", "fettle "))
