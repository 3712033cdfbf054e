"""A real submission to the job server of a local cluster."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from fettle.serving.port import free_port
from program import fettle as command
from program import started, wait_until

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


@pytest.fixture
def elsewhere(root: Path, tmp_path: Path) -> Path:
    """A project's folder that is no clone of fettle: a recipe, and data beside it that git does not keep."""
    (tmp_path / "recipes").mkdir()
    shutil.copytree(root / "recipes" / "northline", tmp_path / "data" / "northline")
    (tmp_path / ".gitignore").write_text("data/\n")
    text = (root / "recipes" / "smoke.yaml").read_text()
    (tmp_path / "recipes" / "mine.yaml").write_text(text.replace("northline/", "../data/northline/"))
    return tmp_path


def test_a_submitted_recipe_is_run_with_its_data_and_begun_again_where_its_driver_dies(
    server: str, elsewhere: Path
) -> None:
    out = elsewhere / "out"
    job = started(
        *("submit", elsewhere / "recipes" / "mine.yaml", "--address", server, "--out", out),
        *("--set", "stages.domain.max_steps=2"),
    )
    wait_until(lambda: any(out.glob("artifacts/domain-*")), job)
    for process in psutil.process_iter():  # of this very run
        with suppress(psutil.Error):
            words = process.cmdline()
            if str(out) in words and "fettle.cli.job" not in words and "submit" not in words and "-c" in words:
                process.kill()
    printed = job.communicate(timeout=400)[0]

    assert job.returncode == 0, printed
    assert "the job's driver was ended by SIGKILL; retry 1 of 3 goes on from where it was" in printed
    assert "2 stages, 1 already done" in printed
    assert "held-out loss" in printed
    stages = json.loads((out / "report.json").read_text())["stages"]
    assert [(stage["name"], stage["steps"]) for stage in stages] == [("domain", 2), ("instruct", 4)]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("stages.domain.data=/mnt/nowhere.txt", "no such file or folder"),
        ("cluster.workers=64", "64 workers want 64 CPUs"),
    ],
)
def test_a_mistake_that_only_the_cluster_sees_is_one_message(
    server: str, elsewhere: Path, override: str, told: str
) -> None:
    recipe = elsewhere / "recipes" / "mine.yaml"

    done = command("submit", recipe, "--address", server, "--out", elsewhere / "out", "--set", override)

    assert done.returncode == 2
    assert done.stdout.count(told) == 1 and "Traceback" not in done.stdout + done.stderr


def test_the_doctor_looks_at_every_node(server: str) -> None:
    done = command("doctor", "--address", server, "--json")

    found = {one["what"].partition(" ")[0]: one for one in json.loads(done.stdout)["findings"]}
    assert (found["head"]["level"], found["node"]["level"]) == ("ok", "ok")
    assert found["ray"]["told"].endswith("on all nodes")
