"""A run without its training: what is trained and what is not, who may write, and what a mistake leaves behind."""

from __future__ import annotations

import fcntl
import json
import os
import shlex
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_house import House, finish, lines

from fettle.cli.run import parse_overrides
from fettle.errors import DoesNotFit, FettleError, Interrupted, StageFailed, UserError
from fettle.pipeline import runner
from fettle.pipeline.report import Report


class Trainings:
    """Stands where the worker groups would be: finishes every stage, and notes its name and its group."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.failing: dict[str, BaseException | signal.Signals] = {}
        self.fences: list[Any] = []

    def __call__(
        self, waiting: Any, jobs: Any, functions: Any, fence: Any, folder: Path, console: Any, when_done: Any
    ) -> None:
        self.fences.append(fence)
        assert [job.name for job in jobs] == [stage.spec.name for stage in waiting]
        for stage in waiting:
            self.names.append(stage.spec.name)
            failure = self.failing.pop(stage.spec.name, None)
            if isinstance(failure, signal.Signals):
                signal.raise_signal(failure)
            elif failure is not None:
                raise failure
            finish(stage)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    found = Trainings()
    monkeypatch.setattr(runner, "train", found)
    return found


def run(house: House, **how: Any) -> Report:
    return runner.run(house.file, out=house.out, **how)


def test_a_run_trains_every_stage_once_and_tells_of_it(house, trainings):
    report = run(house)
    assert trainings.names == ["domain", "instruct"]
    assert [(stage.name, stage.kind, stage.cached) for stage in report.stages] == [
        ("domain", "pretrain", False),
        ("instruct", "sft", False),
    ]
    assert report.artifact == house.plan()[-1].artifact


def test_a_second_run_trains_nothing_and_tells_the_same(house, trainings):
    first, second = run(house), run(house)
    assert trainings.names == ["domain", "instruct"]
    assert [stage.cached for stage in second.stages] == [True, True]
    assert [stage.artifact for stage in second.stages] == [stage.artifact for stage in first.stages]


def test_a_change_trains_the_stages_it_concerns(house, trainings):
    run(house)
    report = run(house, set={"stages.instruct.lr": 1e-5})
    assert trainings.names == ["domain", "instruct", "instruct"]
    assert [stage.cached for stage in report.stages] == [True, False]


def test_until_stops_after_its_stage_and_the_next_run_goes_on(house, trainings):
    assert [stage.name for stage in run(house, until="domain").stages] == ["domain"]
    run(house)
    assert trainings.names == ["domain", "instruct"]


@pytest.mark.parametrize("failure", [StageFailed("out of memory"), UserError("the worker found a mistake")])
def test_a_failed_stage_keeps_the_finished_ones(house, trainings, failure):
    trainings.failing["instruct"] = failure
    with pytest.raises(type(failure)):
        run(house)
    assert [stage.is_done for stage in house.plan()] == [True, False]
    run(house)
    assert trainings.names == ["domain", "instruct", "instruct"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_with_one_message_and_the_next_goes_on(house, trainings, number):
    trainings.failing["instruct"] = number
    with pytest.raises(Interrupted, match=f"stopped by {number.name}; the same command goes on from here") as told:
        run(house)
    assert told.value.exit_code == 130
    run(house)
    assert trainings.names == ["domain", "instruct", "instruct"]


def test_a_stage_that_begins_anew_beside_an_interrupted_attempt_says_so(house, trainings, capfd):
    domain = house.plan()[0]
    (domain.folder / "checkpoints" / "step-00000002").mkdir(parents=True)
    run(house, set={"stages.domain.lr": 1e-5})
    told = " ".join(capfd.readouterr().out.split())
    assert f"domain: begins anew; {domain.folder.name}, interrupted under other settings, is kept and not used" in told


def test_every_run_fences_the_earlier_ones_off(house, trainings):
    run(house)
    run(house, set={"seed": 1})
    earlier, later = trainings.fences
    later.check()
    with pytest.raises(FettleError, match="another run has taken over"):
        earlier.check()


def test_a_folder_with_the_run_of_another_recipe_is_refused(house, trainings):
    run(house)
    with pytest.raises(UserError) as told:
        run(house, set={"name": "southline"})
    assert "name: " + f"{house.out} holds a run of 'northline'" in str(told.value)
    assert str(told.value).endswith("fix: name another folder with --out")
    assert len(trainings.names) == 2


def test_a_folder_in_which_another_run_is_working_is_refused(house, trainings):
    house.out.mkdir()
    with open(house.out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UserError, match=f"another run is working in {house.out}"):
            run(house)
        assert trainings.names == [] and not (house.out / ".epoch").exists()
    run(house)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("chat.jsonl", '{"messages": [{"role"', "chat.jsonl:1: the line is cut off"),
        ("chat.jsonl", "", "chat.jsonl"),
        ("chat.jsonl", lines([{"text": "raw"}]), "text records for a stage of kind sft"),
        ("corpus.txt", "caf\xe9".encode("latin-1"), "not UTF-8 text: byte 0xe9 at offset 3"),
        ("chat.jsonl", lines([{"prompt": "x" * 500, "completion": "y"}]), "no token bears loss"),  # found encoding
    ],
)
def test_a_mistake_in_the_data_leaves_no_folder_behind(house, trainings, file, content, message):
    (house.folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
    before = sorted(os.listdir(house.folder))
    with pytest.raises(UserError) as told:
        run(house)
    assert message in str(told.value) and told.value.exit_code == 2
    assert sorted(os.listdir(house.folder)) == sorted({*before, "recipe.yaml"}) and trainings.names == []


def test_a_mistake_in_the_data_leaves_what_was_there(house, trainings):
    run(house)
    (house.folder / "chat.jsonl").write_text("{")
    with pytest.raises(UserError):
        run(house)
    assert (house.out / "report.json").is_file() and house.plan()[0].is_done


def test_more_workers_than_cpus_leave_no_folder_behind(house, trainings):
    with pytest.raises(DoesNotFit, match="5 workers of 1"):
        run(house, set={"cluster.workers": 5})
    assert not house.out.exists()


def test_too_little_disk_leaves_no_folder_behind(house, trainings, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=1))
    with pytest.raises(DoesNotFit, match="may need"):
        run(house)
    assert not house.out.exists()


def test_what_is_done_needs_neither_cpus_nor_disk(house, trainings, monkeypatch):
    run(house)
    monkeypatch.setattr("os.cpu_count", lambda: 0)
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=0))
    assert all(stage.cached for stage in run(house).stages)


def test_the_default_folder_is_runs_and_the_recipes_name(house, trainings, monkeypatch):
    monkeypatch.chdir(house.folder)
    assert runner.run(house.file).out == house.folder / "runs" / "northline"


def test_the_terminal_shows_the_result_and_where_to_look(house, trainings, monkeypatch, capfd):
    monkeypatch.chdir(house.folder)
    run(house)
    shown = capfd.readouterr().out
    assert shown.startswith("northline: 2 stages; log out/logs\n")
    assert "report    out/report.html\n" in shown and "serve it  fettle serve out/artifacts/instruct-" in shown
    run(house)
    assert capfd.readouterr().out.startswith("northline: 2 stages, 2 already done; log out/logs\n")


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        ({"kind": "lora", "r": 4}, "serve it  fettle serve out/artifacts/instruct-"),
        ({"kind": "dora", "r": 4}, "does not apply DoRA; fettle merge "),
        ({"kind": "prompt"}, "does not apply an adapter of type PROMPT_TUNING; train a lora adapter"),
    ],
)
def test_the_terminal_says_how_to_use_the_adapter(house, trainings, monkeypatch, capfd, adapter, told):
    monkeypatch.chdir(house.folder)
    run(House(house.folder, {**house.tree, "adapter": adapter}))
    assert told in capfd.readouterr().out.replace("\n", " ").replace("  ", "  ")


def test_the_run_says_what_it_is_of(house, trainings):
    run(house, set={"seed": 3})
    told = json.loads((house.out / "run.json").read_text())
    assert told == {"recipe": "northline", "file": str(house.file), "digest": house.recipe(seed=3).digest()}


def test_the_report_has_the_command_that_makes_the_very_same_run(house, trainings, monkeypatch):
    monkeypatch.chdir(house.folder)
    report = runner.run(house.file.name, out="out", set={"seed": 3, "stages.domain.lr": 0.001}, until="domain")
    assert report.command == "fettle run recipe.yaml --out out --set seed=3 --set stages.domain.lr=0.001 --until domain"
    settings = {"stages.domain.data": "[{path: corpus.txt, weight: 2}]"}
    again = runner.run(house.file.name, out="out", set=settings).command
    words = shlex.split(again)
    assert parse_overrides(words[words.index("--set") + 1 :]) == settings
