"""The main job on real input, with what happens to real runs: an interrupt, another machine, a killed worker."""

from __future__ import annotations

import json
import shutil
import signal
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import requests
import yaml
from s3_server import S3Server

import fettle
from fettle.serving.port import free_port
from program import descendants, started, still_there, wait_until
from program import fettle as command


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> Iterator[str]:
    """Its name; whatever this process starts is let in."""
    s3.fs.create_dir("lines")
    with pytest.MonkeyPatch.context() as patch:
        for key, value in s3.env.items():
            patch.setenv(key, value)
        yield "lines"


@pytest.fixture(scope="module")
def recipe(shared: Path, s3: S3Server, bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Real model, real data, two workers, ZeRO 2; a few steps; kept in a bucket."""
    stage = {"batch": {"tokens": 1024}, "max_length": 256, "checkpoint": {"every": 2}, "lr": 5e-4}
    told = {
        "name": "real",
        "base": str(shared / "models" / "stories260K-hd32"),
        "cluster": {"workers": 2, "zero": 2},
        "storage": {"uri": f"s3://{bucket}/tests", "endpoint": s3.endpoint},
        "stages": [
            {"name": "domain", "kind": "pretrain", "data": str(shared / "data/pretrain/rust_book.jsonl")}
            | stage
            | {"max_steps": 4},
            {"name": "instruct", "kind": "sft", "data": str(shared / "data/sft/alpaca_en_demo.json")}
            | stage
            | {"max_steps": 40, "adapter": {"kind": "lora", "r": 8}},
        ],
    }
    file = tmp_path_factory.mktemp("run") / "real.yaml"
    file.write_text(yaml.safe_dump(told))
    return file


def steps_of(out: Path, stage: str) -> list[dict[str, float]]:
    files = list((out / "stages").glob(f"{stage}-*/progress.jsonl"))
    return [json.loads(line) for line in files[0].read_text().splitlines() if line.endswith("}")] if files else []


@pytest.fixture(scope="module")
def run(recipe: Path) -> dict[str, object]:
    """A run interrupted in its second stage, run again on another machine, and that time robbed of a worker."""
    lost, out = recipe.parent / "lost" / "out", recipe.parent / "out"
    first = started("run", recipe, "--out", lost)
    wait_until(lambda: len(steps_of(lost, "instruct")) >= 5, first)
    children = descendants(first)
    first.send_signal(signal.SIGINT)
    said = first.communicate(timeout=60)[0]
    seen = {"out": out, "rc": first.returncode, "said": said, "left": still_there(children)}
    before = len(steps_of(lost, "instruct"))
    shutil.rmtree(lost)

    second = started("run", recipe, "--out", out)
    wait_until(lambda: len(steps_of(out, "instruct")) >= before + 4, second)
    worker = next(one for one in descendants(second) if one.name().startswith("ray::RayTrain"))
    psutil.Process(worker.pid).kill()
    seen["second said"] = second.communicate(timeout=400)[0]
    seen["second rc"] = second.returncode
    return seen


def test_an_interrupt_exits_130_and_leaves_no_process(run: dict[str, object]) -> None:
    assert (run["rc"], run["left"]) == (130, [])
    assert "the same command goes on from here" in str(run["said"])


def test_the_second_run_survives_a_killed_worker(run: dict[str, object]) -> None:
    assert run["second rc"] == 0, run["second said"]


def test_another_machine_goes_on_from_what_is_in_the_bucket(run: dict[str, object]) -> None:
    said = str(run["second said"])

    assert "domain's result is fetched from s3://lines/tests/out" in said, said
    assert "instruct's checkpoint step-000000" in said
    assert "storage   all of it is in s3://lines/tests/out" in said


def test_every_repeated_step_has_the_loss_it_had(run: dict[str, object]) -> None:
    seen = defaultdict(set)
    for row in steps_of(Path(str(run["out"])), "instruct"):
        seen[row["step"]].add(row["loss"])

    assert sorted(seen) == list(range(1, 41))
    assert all(len(losses) == 1 for losses in seen.values()), seen


def test_no_step_was_repeated_from_the_beginning(run: dict[str, object]) -> None:
    steps = [row["step"] for row in steps_of(Path(str(run["out"])), "instruct")]

    assert steps.count(1) == 1


def test_the_finished_stage_was_not_trained_again(run: dict[str, object]) -> None:
    told = json.loads((Path(str(run["out"])) / "report.json").read_text())

    assert [(stage["name"], stage["cached"]) for stage in told["stages"]] == [("domain", True), ("instruct", False)]


def test_the_report_has_what_it_promises(run: dict[str, object]) -> None:
    out = Path(str(run["out"]))
    stage = json.loads((out / "report.json").read_text())["stages"][1]

    assert set(stage) >= {"name", "kind", "cached", "seconds", "steps", "tokens", "artifact", "loss"}
    assert set(stage["loss"]) == {"first", "last", "heldout_before", "heldout_after"}
    assert stage["loss"]["heldout_after"] < stage["loss"]["heldout_before"]
    assert (out / "report.html").read_text().count("<svg") == 3  # the stages, two curves


def test_python_gets_the_same_report_without_training_anything(run: dict[str, object], recipe: Path) -> None:
    report = fettle.run(recipe, out=str(run["out"]))

    assert [stage.cached for stage in report.stages] == [True, True]


def test_a_recipe_of_another_name_is_refused_there(run: dict[str, object], recipe: Path) -> None:
    done = command("run", recipe, "--out", str(run["out"]), "--set", "name=other")

    assert done.returncode == 2
    assert "holds a run of 'real'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_trained_adapter_answers_over_http(run: dict[str, object]) -> None:
    artifact = next((Path(str(run["out"])) / "artifacts").glob("instruct-*"))
    with fettle.serve(artifact, port=free_port(), name="real") as endpoint:
        body = {"model": "real", "prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
        answer = requests.post(f"{endpoint.url}/v1/completions", json=body, timeout=120)

    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] > 0
