"""A verb as a job's entry point: begun again where it dies, and where it does not help, not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fettle.cli.job import supervised, with_home


def driver(tmp_path: Path, *lives: str) -> list[str]:
    """A program that does the first of these when it first runs, then the second, and so on."""
    script = tmp_path / "driver.py"
    script.write_text(
        "import os, signal, sys, time, pathlib\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "life = len(list(here.glob('life-*')))\n"
        "(here / f'life-{life}').touch()\n"
        f"exec({list(lives)!r}[life])\n"
    )
    return [sys.executable, str(script)]


def lives(tmp_path: Path) -> int:
    return len(list(tmp_path.glob("life-*")))


DIES = "os.kill(os.getpid(), signal.SIGKILL)"


def test_a_driver_that_is_killed_is_begun_again(tmp_path: Path, capfd):
    assert supervised(driver(tmp_path, DIES, "sys.exit(1)", "sys.exit(0)"), retries=3, pause_s=0) == 0

    told = capfd.readouterr().err.splitlines()
    assert told == [
        "fettle: the job's driver was ended by SIGKILL; retry 1 of 3 goes on from where it was",
        "fettle: the job's driver failed; retry 2 of 3 goes on from where it was",
    ]


def test_it_is_begun_again_only_so_often(tmp_path: Path, capfd):
    assert supervised(driver(tmp_path, DIES, DIES, DIES), retries=2, pause_s=0) == 1

    assert lives(tmp_path) == 3
    assert capfd.readouterr().err.endswith("was ended by SIGKILL, and so did every retry\n")


def test_what_fails_twice_in_a_row_fails_for_good(tmp_path: Path):
    assert supervised(driver(tmp_path, "sys.exit(1)", DIES, "sys.exit(1)", "sys.exit(1)"), retries=9, pause_s=0) == 1
    assert lives(tmp_path) == 4


@pytest.mark.parametrize("code", [0, 2, 3, 130])
def test_what_the_user_has_to_mend_and_what_is_done_is_final(tmp_path: Path, code: int):
    assert supervised(driver(tmp_path, f"sys.exit({code})"), retries=3, pause_s=0) == code
    assert lives(tmp_path) == 1


def test_a_signal_is_handed_on_and_nothing_is_begun_again(tmp_path: Path):
    waits = (
        "signal.signal(signal.SIGTERM, lambda *of: (here / 'saved').touch() or sys.exit(130))\n"
        "(here / 'ready').touch()\ntime.sleep(60)"
    )
    words = driver(tmp_path, waits)
    code = f"from fettle.cli.job import supervised; import sys; sys.exit(supervised({words!r}, 3))"
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "ready").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)

    assert process.wait(30) == 130
    assert (tmp_path / "saved").exists() and lives(tmp_path) == 1


def test_a_signal_between_two_lives_ends_it(tmp_path: Path):
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGTERM))
    timer.start()
    try:
        assert supervised(driver(tmp_path, DIES, DIES), retries=3, pause_s=60) == 130
    finally:
        timer.cancel()
    assert lives(tmp_path) == 1


def test_the_home_folder_is_the_nodes_own():
    home = str(Path.home())

    assert with_home(["run", "r.yaml", "--out", "~/fettle/runs/r"]) == [
        "run",
        "r.yaml",
        "--out",
        f"{home}/fettle/runs/r",
    ]
    assert with_home(["--out=~/x", "~/data.jsonl", "--set", "~/y"]) == [
        f"--out={home}/x",
        "~/data.jsonl",
        "--set",
        "~/y",
    ]


def test_the_supervisor_loads_neither_ray_nor_torch():
    code = (
        "import sys, fettle.cli.job; print([name for name in ('ray', 'torch', 'transformers') if name in sys.modules])"
    )

    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
