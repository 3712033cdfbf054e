"""`fettle data check`, `fettle data show` and `fettle data split`, as a user runs them."""

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


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal on which the paths of temporary files fit."""
    monkeypatch.setenv("COLUMNS", "160")


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


def test_check_prints_what_each_file_holds_why_and_what_is_not_read(data):
    printed = run("check", data)
    assert "chat.jsonl  messages        1" in printed
    assert "messages, because line 1 has messages; not read: id" in printed


def test_check_exits_with_0_on_warnings(data):
    data.write_text(data.read_text() * 2)
    assert "warning: " in (printed := run("check", data))
    assert "chat.jsonl: an earlier record again (1 record, first in line 2: line 1 again)" in printed


def test_check_tells_the_folder_once_and_the_same_warning_of_several_files_once(data):
    for name in ("a", "b"):
        data.with_name(f"{name}.jsonl").write_text(data.read_text() * 3)
    printed = run("check", data.parent)
    assert printed.startswith(f"in {data.parent}:\n") and printed.count(str(data.parent)) == 1
    assert "warning: an earlier record again (4 records: a.jsonl:2 (2), b.jsonl:2 (2))\n" in printed


def test_check_of_hundreds_of_files_fits_on_a_screen(data):
    for number in range(300):
        data.with_name(f"{number}.jsonl").write_text(data.read_text() * 2)
    for number in range(50):
        folder = data.parent / f"{number}"
        folder.mkdir()
        (folder / "a.txt").write_text(f"{number}")
    printed = run("check", data.parent)
    assert len(printed.splitlines()) < 50
    assert "(301 files)" in printed and "… 12 more files" in printed


def test_check_finds_held_out_records_in_the_training_data(data):
    held = data.with_name("held.jsonl")
    held.write_text(data.read_text())
    told = "warning: 1 of 1 held-out records are in the training data (1 the same): chat.jsonl:1 ↔ held.jsonl:1"
    assert told in run("check", data, "--heldout", held)
    held.write_text(data.read_text().replace("Yo", "No"))
    assert "none of 1 held-out records is in the training data" in run("check", data, "--heldout", held)


def test_check_reads_a_sample_and_says_so(data):
    data.write_text("".join(json.dumps({"text": f"{i}"}) + "\n" for i in range(1000)))
    printed = run("check", data, "--sample", 100)
    assert "~ 100" in printed and "only a sample of 100 records was read" in printed
    (file,) = json.loads(run("check", data, "--sample", 100, "--json"))["files"]
    assert (file["records"], file["is_sampled"]) == (100, True)


def test_check_prints_how_labels_divide(data):
    few, many = data.with_name("few.csv"), data.with_name("many.csv")
    few.write_text("text,label\na,x\nb,x\nc,x\nd,y\n")
    many.write_text("text,label\n" + "".join(f"{i},{i // 2 if i < 20 else 9}\n" for i in range(30)))
    assert "few.csv: 3 'x' (75%), 1 'y' (25%)" in run("check", few)
    assert "many.csv: 10 labels, from 12 '9' to 2 '8'" in run("check", many)


def test_files_are_read_as_set_says(data):
    data.write_text("q;a\n".replace(";", ",") + "Où?,Là.\n", encoding="latin-1")
    file = data.rename(data.with_suffix(".csv"))
    reading = ("--set", "columns.prompt=q", "--set", "columns.completion=a", "--set", "encoding=latin-1")
    (told,) = json.loads(run("check", file, *reading, "--set", "limit=1", "--json"))["files"]
    assert (told["format"], told["columns"], told["records"]) == ("prompt_completion", ["q", "a"], 1)


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ("formt=text", r"--set formt: unknown key \(did you mean 'format'\?\)"),
        ("format=texts", "--set format: input should be 'text', 'messages'"),
        ("limit=many", "--set limit: input should be a valid integer, .*, not 'many'"),
        ("columns=a", "--set columns=a\n  expected: --set columns.KEY=VALUE"),
        ("format.a=b", "--set format: input should be"),
    ],
)
def test_set_refuses_what_sources_do_not_have(data, option, told):
    with pytest.raises(UserError, match=told):
        run("check", data, "--set", option)


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


@needs_tiny
def test_check_with_a_base_prints_lengths(data):
    printed = run("check", data, "--base", "tiny")
    assert printed.splitlines()[0].split()[-8:] == ["tokens", "learned", "mean", "median", "95", "%", "longest"][
        -8:
    ] or ("tokens  learned  mean  median  95 %  longest" in printed)


@pytest.mark.parametrize("option", [("--max-length", 100), ("--chat-template", "chatml")])
def test_check_refuses_what_is_for_counting_tokens_without_a_base(data, option):
    with pytest.raises(UserError, match="fix: add --base MODEL"):
        run("check", data, *option)


def test_check_refuses_held_out_files_beside_a_recipe(recipe):
    with pytest.raises(UserError, match="--heldout goes with files"):
        run("check", recipe, "--heldout", "a.jsonl")


@needs_tiny
def test_check_and_show_take_a_chat_template(data):
    template = data.with_name("a.jinja")
    template.write_text(
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    assert "<|im_end|><|im_start|>assistant\n⟦Yo<|im_end|>⟧" in run(
        "show", data, "--chat-template", template, "--plain"
    )
    usual, other = (
        json.loads(run("check", data, "--base", "tiny", "--json", *more))["files"][0]["counts"]["tokens"]
        for more in ([], ["--chat-template", template])
    )
    assert usual != other


@needs_tiny
def test_a_recipes_chat_template_is_used_and_may_be_overridden(recipe):
    template = recipe.with_name("a.jinja")
    template.write_text("{% for m in messages %}{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
                        "{% if add_generation_prompt %}assistant\n{% endif %}")  # fmt: skip
    recipe.write_text("chat_template: a.jinja\n" + recipe.read_text())
    assert "user\nHi<|im_end|>assistant\n⟦Yo<|im_end|>⟧" in run("show", recipe, "--stage", "task")
    assert "<|im_start|>user" in run("show", recipe, "--stage", "task", "--chat-template", "chatml")


@needs_tiny
def test_set_overrides_a_recipe(recipe):
    assert "at most 32 tokens" in run("show", recipe, "--stage", "task", "--set", "stages.task.max_length=32")


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
def test_show_shows_all_answers_of_a_record_by_their_names(data):
    rows = [{"prompt": f"{i}", "chosen": "A", "rejected": "B"} for i in range(3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    printed = run("show", data, "-n", 2)
    assert [line.split(":")[1] for line in printed.splitlines() if line.startswith("── ")] == [
        "1, chosen", "1, rejected", "2, chosen", "2, rejected"
    ]  # fmt: skip


@needs_tiny
def test_show_says_the_format_of_each_file_and_why(data):
    data.with_name("b.jsonl").write_text(json.dumps({"text": "x"}))
    printed = run("show", data.parent)
    assert f"{data}: messages (line 1 has messages)" in printed
    assert f"{data.with_name('b.jsonl')}: text (line 1 has text)" in printed


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


def test_split_writes_files_and_tells_how_to_check_them(data):
    data.write_text("".join(json.dumps({"q": f"{i}", "a": "x"}) + "\n" for i in range(100)))
    out = data.with_name("out")
    reading = ("--set", "columns.prompt=q", "--set", "columns.completion=a")
    printed = run("split", data, "--out", out, "--heldout", "0.05", "--test", "7", *reading)
    assert [line.split() for line in printed.splitlines()[:3]] == [
        [f"{out}/train.jsonl", "88", "records"],
        [f"{out}/heldout.jsonl", "5", "records"],
        [f"{out}/test.jsonl", "7", "records"],
    ]
    told = printed.splitlines()[3].removeprefix("check them: fettle data ").split()
    assert "none of 12 held-out records is in the training data" in run(*told)


@pytest.mark.parametrize("share", ["0", "1.5", "-1", "2%", "all", "1.0"])
def test_split_refuses_what_is_neither_a_share_nor_a_number(data, share):
    with pytest.raises(UserError, match=r"expected: a share between 0 and 1, or a number of records"):
        run("split", data, "--out", data.with_name("out"), "--heldout", share)


def test_the_commands_import_nothing_heavy_before_they_run():
    heavy = "torch", "transformers", "ray", "rich.console", "fettle.data.encode"
    code = f"import sys, fettle.cli.data; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "[]"


def test_checking_files_without_a_base_does_not_import_transformers():
    code = "import sys, fettle.data.check; print('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
