"""A real submission to the job server of a local cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fettle.serving.port import free_port
from program import fettle as command

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """`ray start --head` with the environment active, as the README says; stopped afterwards."""
    folder = tempfile.mkdtemp(prefix="ray-")  # short: the paths of the dashboard's sockets end at 107 characters
    port, dashboard = free_port(), free_port()
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}", "RAY_worker_niceness": "0"}
    words = ["ray", "start", "--head", f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2"]
    words += ["--disable-usage-stats", f"--temp-dir={folder}"]
    words += [f"--dashboard-agent-listen-port={free_port()}"]  # its usual one may be another cluster's
    for _ in range(3):  # a busy machine's first start may time out
        done = subprocess.run(words, env=env, capture_output=True, text=True, timeout=180)
        if done.returncode == 0:
            break
        subprocess.run(["ray", "stop", "--force"], env=env, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr
    yield f"http://127.0.0.1:{dashboard}"
    subprocess.run(["ray", "stop", "--force"], env=env, capture_output=True, timeout=120)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_submitted_recipe_is_run_on_the_cluster(server: str, root: Path, tmp_path: Path) -> None:
    done = command(
        *("submit", root / "recipes" / "smoke.yaml", "--working-dir", root, "--address", server),
        *("--out", tmp_path / "out", "--set", "stages.domain.max_steps=2"),
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "held-out loss" in done.stdout
    stages = json.loads((tmp_path / "out" / "report.json").read_text())["stages"]
    assert [(stage["name"], stage["steps"]) for stage in stages] == [("domain", 2), ("instruct", 4)]


def test_a_job_that_fails_makes_submit_fail(server: str, root: Path, tmp_path: Path) -> None:
    done = command(
        *("submit", root / "recipes" / "smoke.yaml", "--working-dir", root, "--address", server),
        *("--out", tmp_path / "out", "--set", "cluster.workers=64"),
    )

    assert done.returncode != 0
    assert "64 workers" in done.stdout + done.stderr


def test_no_server_is_one_clear_message(root: Path) -> None:
    address = f"http://127.0.0.1:{free_port()}"

    done = command("submit", root / "recipes" / "smoke.yaml", "--working-dir", root, "--address", address)

    assert done.returncode == 2
    assert f"no Ray job server answers at {address}" in done.stderr
    assert "Traceback" not in done.stderr
