"""`fettle data check` and `fettle data show`, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fettle.cli.data import app
from fettle.errors import UserError
from fettle.models.base import BUNDLED

needs_tiny = pytest.mark.skipif(
    not (BUNDLED["tiny"] / "tokenizer.json").is_file(), reason="the bundled base is not in this checkout"
)
TURNS = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = tmp_path / "chat.jsonl"
    file.write_text(json.dumps({"messages": TURNS, "id": 1}) + "\n")
    return file


@pytest.fixture
def recipe(data: Path) -> Path:
    (data.parent / "corpus.txt").write_text("Once upon a time")
    file = data.parent / "recipe.yaml"
    file.write_text(
        "name: x\nstages:\n"
        "  - {name: domain, kind: pretrain, data: corpus.txt}\n"
        "  - {name: task, kind: sft, data: chat.jsonl, max_length: 64}\n"
    )
    return file


def run(*args: object) -> str:
    """What the command prints. Raises what it raises."""
    result = CliRunner().invoke(app, [str(arg) for arg in args], catch_exceptions=False)
    assert result.exit_code == 0
    return result.output


def test_check_prints_what_each_file_holds_and_what_is_not_read(data):
    printed = run("check", data)
    assert "chat.jsonl  messages        1" in printed
    assert "chat.jsonl: not read: id (line 1 has messages: messages)" in printed


def test_check_exits_with_0_on_warnings(data):
    data.write_text(data.read_text() * 2)
    assert "warning: an earlier record again (1 record, first in line 2)" in run("check", data)


def test_check_raises_a_users_mistake_after_telling_of_the_good_files(data, capsys):
    bad = data.with_name("bad.jsonl")
    bad.write_text('{"text": "cut')
    result = CliRunner().invoke(app, ["check", str(data), str(bad)])
    assert "chat.jsonl" in result.output
    assert isinstance(result.exception, UserError) and result.exception.exit_code == 2
    assert str(result.exception).startswith(f"{bad}:1: the line is cut off")


def test_check_prints_json(data):
    (file,) = json.loads(run("check", data, "--json"))["files"]
    assert (file["format"], file["records"], file["ignored"]) == ("messages", 1, ["id"])


@needs_tiny
def test_check_with_a_base_counts_tokens(data):
    assert json.loads(run("check", data, "--base", "tiny", "--json"))["files"][0]["counts"]["records"] == 1


def test_check_refuses_a_max_length_that_nothing_counts(data):
    with pytest.raises(UserError, match="fix: add --base MODEL"):
        run("check", data, "--max-length", 100)


@needs_tiny
def test_check_reads_every_stage_of_a_recipe(recipe):
    stages = json.loads(run("check", recipe, "--json"))["stages"]
    assert {name: report["files"][0]["format"] for name, report in stages.items()} == {
        "domain": "text",
        "task": "messages",
    }


@needs_tiny
def test_show_marks_what_is_learned(data):
    printed = run("show", data, "--plain")
    assert "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yo<|im_end|>⟧\n" in printed
    assert f"── {data}:1: " in printed


@needs_tiny
def test_show_takes_its_stage_and_length_from_the_recipe(recipe):
    assert "⟦Yo<|im_end|>⟧" in (task := run("show", recipe, "--stage", "task"))
    assert "at most 64 tokens" in task
    assert "upon a time<|endoftext|>⟧" in run("show", recipe)


@needs_tiny
def test_show_shows_n_examples_of_each_source(data):
    data.write_text(data.read_text() * 5)
    assert run("show", data, "-n", 2).count("── ") == 2


@needs_tiny
def test_show_refuses_a_length_above_the_models_positions(data):
    with pytest.raises(UserError, match="max_length 100000 is above the"):
        run("show", data, "--max-length", 100_000)


def test_show_names_the_stages_when_there_is_none_of_that_name(recipe):
    with pytest.raises(UserError, match=r"no stage 'tsk' \(did you mean 'task'\?\)"):
        run("show", recipe, "--stage", "tsk")


def test_show_refuses_a_stage_without_a_recipe(data):
    with pytest.raises(UserError, match="--stage task goes with a recipe"):
        run("show", data, "--stage", "task")


def test_the_commands_import_nothing_heavy_before_they_run():
    heavy = "torch", "transformers", "ray", "rich.console", "fettle.data.encode"
    code = f"import sys, fettle.cli.data; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"


def test_checking_files_without_a_base_does_not_import_transformers():
    code = "import sys, fettle.data.check; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
