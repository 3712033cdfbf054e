"""`fettle demo`, which is what `make demo` runs: the endpoint's answers are right after, and were not before."""

from __future__ import annotations

from pathlib import Path

from program import fettle as command


def test_the_demo_answers_its_questions_after_training(tmp_path: Path) -> None:
    done = command("demo", "--out", tmp_path / "demo", timeout_s=560)

    assert done.returncode == 0, done.stdout + done.stderr
    told = " ".join(done.stdout.split())
    for fact in ("7 marks", "21:40", "hot chocolate"):
        assert told.count(fact) == 1, done.stdout
    assert (tmp_path / "demo" / "report.html").is_file()
