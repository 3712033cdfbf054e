"""What DeepSpeed is loaded with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fettle.train.zero import load_deepspeed


def test_its_ops_are_built_by_the_ninja_of_this_environment_whether_it_is_activated_or_not(monkeypatch):
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    for _ in range(2):
        load_deepspeed()
        assert os.environ["PATH"].split(os.pathsep) == [str(Path(sys.executable).parent), "/usr/bin", "/bin"]
