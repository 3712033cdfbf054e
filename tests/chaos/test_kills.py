"""A run that is killed five times makes the artifacts of one that was left alone; `make chaos` kills it fifty times."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Of each stage: four checkpoints, where `make chaos` has seven to ten.
SHORT = [
    word for name in ("domain", "instruct", "taste", "prefer") for word in ("--set", f"stages.{name}.max_steps=12")
]


@pytest.mark.timeout(1500)
def test_a_run_that_is_killed_again_and_again_makes_the_very_same_artifacts(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "benchmarks" / "chaos.py"), "--kills", "5", "--keep", str(tmp_path), *SHORT]

    done = subprocess.run(command, capture_output=True, text=True)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 5 times" in done.stdout
    assert "artifacts: the very same, bit for bit; half-written: nothing" in done.stdout
