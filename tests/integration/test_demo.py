"""`fettle demo`, which is what `make demo` runs: the endpoint's answers are right after, and were not before."""

from __future__ import annotations

from pathlib import Path

import pytest

from program import fettle as command


@pytest.mark.timeout(1260)  # seven minutes on quiet cores, and more where the other half of the tests has one of them
def test_the_demo_answers_its_questions_after_training(tmp_path: Path) -> None:
    done = command("demo", "--out", tmp_path / "demo", timeout_s=1200)

    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    for fact in ("7 marks", "21:40", "hot chocolate"):
        assert told.count(fact) == 1, done.stdout
    assert (tmp_path / "demo" / "report.html").is_file()
