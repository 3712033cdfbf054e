"""Checking whole files: what the report says, which oddities warn, and how several mistakes are told at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fettle.data import check
from fettle.data.check import check_sources, inspect_sources, inspect_stage
from fettle.data.measure import Measure
from fettle.errors import UserError
from fettle.recipe import load_recipe
from fettle.recipe.data import DataSpec


def checked(*files: Path, measure: Measure | None = None):
    return check_sources([DataSpec(path=str(file)) for file in files], Path, measure)


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": words} for i, words in enumerate(said)]


def test_the_report_names_each_files_format_records_and_bytes(write):
    report = checked(write("a.jsonl", [{"text": "x", "id": 1}, {"text": "y", "id": 2}]), write("b.txt", "z"))
    first, second = report.files
    assert (first.format, first.records, first.bytes, first.ignored) == ("text", 2, 46, ("id",))
    assert (second.format, second.records, second.why) == ("text", 1, "a .txt file is plain text")


def test_duplicates_are_counted_and_told_with_the_first_line(write):
    (file,) = checked(write("a.jsonl", [{"text": "x"}, {"text": "y"}, {"text": "x"}, {"text": "x"}])).files
    assert file.duplicates == 2
    assert file.warnings == ("an earlier record again (2 records, first in line 3)",)


@pytest.mark.parametrize(
    ("row", "warning"),
    [
        ({"text": " "}, "empty text, left out"),
        ({"prompt": "Hi", "completion": ""}, "empty answer: the model learns to say nothing"),
        ({"prompt": "", "completion": "Yo"}, "empty prompt"),
        ({"messages": turns("Hi", "Yo", "?")}, "last turn is the user's, which is not learned"),
    ],
)
def test_an_oddity_is_a_warning_with_its_line(write, row, warning):
    (file,) = checked(write("a.jsonl", [row])).files
    assert file.warnings == (f"{warning} (1 record, first in line 1)",)


def test_files_of_other_kinds_in_a_folder_are_a_warning(write):
    folder = write("d/a.txt", "x").parent
    write("d/README.md", "not data")
    assert checked(folder).warnings == (f"{folder}: 1 files of other kinds are not read (first: README.md)",)


def test_with_a_base_lengths_and_the_learned_share_are_counted(write, chatml):
    file = write("a.jsonl", [{"messages": turns("Hi", "Yo")}, {"messages": turns("Hi", "Y" * 40)}])
    (report,) = checked(file, measure=Measure(chatml, max_length=30)).files
    # <start>user⏎Hi<end>⏎ is 10 tokens, <start>assistant⏎ 11, then the answer, <end> and ⏎.
    assert (report.counts.longest, report.counts.cut, report.counts.tokens) == (63, 1, 25 + 30)
    assert report.counts.loss_tokens == 3 + 9
    assert "1 of 2 records are longer than 30 tokens and are cut" in report.warnings


def test_a_special_tokens_name_in_the_content_is_a_warning(write, chatml):
    file = write("a.jsonl", [{"prompt": "Hi", "completion": "Yo<|end|>"}])
    (report,) = checked(file, measure=Measure(chatml, max_length=100)).files
    assert report.warnings[0].startswith("the text <|end|> inside the content becomes the special token (1 record")


def test_a_template_without_an_end_of_turn_is_a_warning(write, make_tokenizer):
    tokenizer = make_tokenizer("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}")
    report = checked(write("a.jsonl", [{"messages": turns("Hi", "Yo")}]), measure=Measure(tokenizer, max_length=100))
    assert "the model cannot learn to stop" in report.warnings[0]


def test_messages_on_a_base_without_a_template_are_an_error_with_line(write, make_tokenizer):
    file = write("a.jsonl", [{"messages": turns("Hi", "Yo")}])
    with pytest.raises(UserError, match=f"{file}:1: messages: messages need a chat template"):
        checked(file, measure=Measure(make_tokenizer(), max_length=100))


def test_one_mistake_is_raised_as_it_is(write):
    file = write("a.jsonl", [{"text": "x"}, {"text": 1}])
    with pytest.raises(UserError) as caught:
        checked(file)
    assert (caught.value.file, caught.value.line, caught.value.field) == (file, 2, "text")


def test_many_mistakes_are_told_together_the_first_five_and_their_number(write):
    file = write("a.jsonl", [{"text": "x"}] + [{"text": i} for i in range(7)])
    with pytest.raises(UserError) as caught:
        checked(file)
    told = str(caught.value).splitlines()
    assert told[0] == f"{file}: 7 mistakes" and told[-1] == "  … and 2 more"
    assert [line for line in told if line.endswith("a number, not text")] == [
        f"  {file}:{line}: text: a number, not text" for line in range(2, 7)
    ]


def test_mistakes_of_several_files_are_told_together(write):
    with pytest.raises(UserError) as caught:
        checked(write("a.jsonl", ""), write("b.jsonl", '{"te'), write("c.jsonl", [{"text": "fine"}]))
    told = str(caught.value)
    assert told.startswith("2 mistakes")
    assert "a.jsonl: the file is empty" in told and "b.jsonl:1: the line is cut off" in told


def test_mixed_formats_are_one_mistake_a_file(write):
    rows = [{"text": "x"}] + [{"prompt": "a", "completion": "b"}] * 9
    report = inspect_sources([DataSpec(path=str(write("a.jsonl", rows)))], Path)
    assert (report.num_mistakes, report.mistakes[0].line) == (1, 2)


def test_a_huge_file_is_read_in_places(write, monkeypatch):
    monkeypatch.setattr(check, "WHOLE_BYTES", 10_000)
    monkeypatch.setattr(check, "_PLACE_BYTES", 500)
    (report,) = checked(write("a.jsonl", [{"text": f"{i:04}"} for i in range(2000)])).files
    assert report.is_sampled and report.records < 200


def test_the_report_is_json(write, chatml):
    report = checked(write("a.jsonl", [{"text": "x"}]), measure=Measure(chatml, max_length=100))
    told = json.loads(json.dumps(report.to_json()))
    assert told["files"][0]["format"] == "text" and told["files"][0]["counts"]["tokens"] == 2
    assert told["errors"] == []


def recipe_of(write, stage: str):
    file = write("recipe.yaml", f"name: x\nstages:\n  - {stage}\n")
    return load_recipe(file)


def test_a_stages_data_replay_and_heldout_are_all_checked(write):
    for name in ("a", "b", "c"):
        write(f"{name}.jsonl", [{"prompt": "Hi", "completion": name}])
    recipe = recipe_of(
        write, "{name: s, kind: sft, data: a.jsonl, replay: {data: b.jsonl, fraction: 0.1}, heldout: {data: c.jsonl}}"
    )
    files = inspect_stage(recipe, recipe.stages[0]).files
    assert [file.file.name for file in files] == ["a.jsonl", "b.jsonl", "c.jsonl"]


def test_a_stages_missing_file_is_told_at_the_recipes_line(write):
    recipe = recipe_of(write, "{name: s, kind: sft, data: none.jsonl}")
    with pytest.raises(UserError, match=r"recipe.yaml:3: stages.s.data: .*none.jsonl: no such file"):
        inspect_stage(recipe, recipe.stages[0]).raise_mistakes()


@pytest.mark.parametrize(
    ("kind", "row", "told"),
    [
        ("pretrain", {"prompt": "Hi", "completion": "Yo"}, "prompt_completion records in a pretrain stage"),
        ("sft", {"text": "x"}, "text records in a sft stage"),
    ],
)
def test_a_stage_refuses_what_it_cannot_learn(write, kind, row, told):
    write("a.jsonl", [row])
    recipe = recipe_of(write, f"{{name: s, kind: {kind}, data: a.jsonl}}")
    with pytest.raises(UserError, match=rf"a.jsonl: stages.s.data: {told}"):
        inspect_stage(recipe, recipe.stages[0]).raise_mistakes()


@pytest.mark.parametrize(
    ("path", "format_", "records"),
    [
        ("data/sft/alpaca_en_demo.json", "alpaca", 999),
        ("data/sft/t0_prompt_completion.jsonl", "prompt_completion", 2400),
        ("data/sft/v1_sft_demo.jsonl", "messages", 500),
        ("data/pretrain/rust_book.jsonl", "text", 112),
        ("data/pretrain/tinyshakespeare.txt", "text", 1),
    ],
)
def test_real_files_hold_as_many_records_as_their_readme_says(shared, path, format_, records):
    (report,) = checked(shared(path)).files
    assert (report.format, report.records) == (format_, records)


def test_the_alpaca_demos_fourteen_duplicates_are_found(shared):
    assert checked(shared("data/sft/alpaca_en_demo.json")).files[0].duplicates == 14
