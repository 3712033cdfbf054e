"""`fettle demo`, which is what `make demo` runs: the endpoint's answers are right after, and were not before."""

from __future__ import annotations

from pathlib import Path
from subprocess import CompletedProcess

import pytest

from browser import look_at_report
from program import fettle as command

# Seven minutes on quiet cores, and more where the other half of the tests has one of them.
pytestmark = pytest.mark.timeout(1260)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's folder."""
    return tmp_path_factory.mktemp("demo") / "demo"


@pytest.fixture(scope="module")
def done(out: Path) -> CompletedProcess[str]:
    return command("demo", "--out", out, timeout_s=1200)


def test_the_demo_answers_its_questions_after_training(done: CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    for fact in ("7 marks", "21:40", "hot chocolate"):
        assert told.count(fact) == 1, done.stdout


def test_the_demos_report_is_readable_in_a_browser(done: CompletedProcess[str], out: Path, tmp_path: Path) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    stages = ["domain", "instruct", "taste", "align", "final"]
    look_at_report(out / "report.html", stages, ["stages", "results", "curves", "lineage", "again"], tmp_path)
