"""The files of lm-evaluation-harness tasks: what they name, and that none of them runs code unasked."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fettle.errors import UserError
from fettle.evaluate.harness_files import TaskFiles, task_files

TASK = "task: trains\ndataset_path: json\ndataset_kwargs: {data_files: {test: trains.jsonl}}\n"
Read = Callable[..., TaskFiles]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """`write(name, text)`: a file beside trains.jsonl."""
    (tmp_path / "trains.jsonl").write_text("{}\n")

    def write(name: str, text: str) -> Path:
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        return file

    return write


def refused(path: Path, **keys: bool) -> str:
    with pytest.raises(UserError) as caught:
        task_files([path], allow_code=keys.get("allow_code", False), field="evaluate.0.tasks")
    folder = path if path.is_dir() else path.parent
    return str(caught.value).replace(f"{folder}/", "").replace(str(folder), ".")


def test_a_tasks_files_are_those_that_decide_what_it_measures(write, tmp_path):
    write("shared/common", "dataset_path: json\ndataset_kwargs: {data_files: {test: [trains.jsonl]}}\n")
    file = write("trains.yaml", "task: trains\ninclude: shared/common\n")

    found = task_files([file], allow_code=False)

    assert found == TaskFiles((file,), (file, tmp_path / "shared/common"), (tmp_path / "trains.jsonl",))


def test_of_a_folder_every_task_is_meant_and_what_is_only_included_is_not(write, tmp_path):
    write("_common.yaml", "dataset_path: json\n")
    tasks = [write(name, TASK) for name in ("b.yaml", "a.yml")]

    assert set(task_files([tmp_path], allow_code=False).tasks) == set(tasks)


def test_a_groups_tasks_lie_beside_it_and_are_looked_at_too(write):
    group = write("all.yaml", "group: all\ntask: [trains]\n")
    write("trains.yaml", TASK + "doc_to_text: !function code.ask\n")

    assert "!function code.ask: this task would run code of its own" in refused(group)


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("doc_to_text: !function code.ask", "doc_to_text: !function code.ask: this task would run code of its own"),
        ("metric_list: [{metric: !function code.f1}]", "metric: !function code.f1: this task would run code"),
        ("class: !function code.Task", "class: !function code.Task: this task would run code"),
        ("doc_to_text: !!python/name:os.system", "this task would run code of its own"),
        ("metric_list: [{metric: f1, hf_evaluate: true}]", "hf_evaluate: this metric or task is code"),
        ("unsafe_code: true", "unsafe_code: this metric or task is code"),
        ("fewshot_config: {dataset_path: pandas}", "dataset_path: the data set pandas is not in files that could be"),
    ],
)
def test_code_is_refused_with_its_line(write, line, got):
    told = refused(write("trains.yaml", TASK + line + "\n"))

    assert told.startswith("trains.yaml:4: ") and got in told and "allow_code: true" in told


def test_code_in_what_is_included_is_found_where_it_is(write):
    write("common", "# shared\ndoc_to_text: !function code.ask\n")

    assert refused(write("trains.yaml", TASK + "include: common\n")).startswith("common:2: doc_to_text: !function")


def test_code_that_is_allowed_is_read(write):
    file = write("trains.yaml", TASK + "doc_to_text: !function code.ask\nunsafe_code: true\n")

    assert task_files([file], allow_code=True).tasks == (file,)


@pytest.mark.parametrize(
    ("text", "got"),
    [
        (TASK.replace("trains.jsonl", "rains.jsonl"), "trains.yaml:3: data_files: there is no rains.jsonl in ."),
        (
            TASK.replace("trains.jsonl", "https://a.b/c.jsonl"),
            "https://a.b/c.jsonl is not here, and tasks are",
        ),
        (
            TASK.replace("json\n", "allenai/ai2_arc\n"),
            "yaml:2: dataset_path: the data set allenai/ai2_arc is",
        ),
        (TASK + "include: nowhere\n", "trains.yaml:4: include: there is no nowhere"),
        (TASK + "include: trains.yaml\n", "it includes itself, by way of trains.yaml"),
        ("task: [a, b\n", "trains.yaml:2: not YAML: "),
    ],
)
def test_what_is_not_there_or_no_yaml_is_told_with_its_line(write, text, got):
    assert got in refused(write("trains.yaml", text))


def test_a_folder_without_tasks_and_no_folder_at_all_are_told(write, tmp_path):
    assert "evaluate.0.tasks: no task in ." in refused(write("empty/notes.txt", "").parent)
    assert "evaluate.0.tasks: no task at " in refused(tmp_path / "nowhere")
