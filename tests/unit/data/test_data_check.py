"""Checking whole files: what the report says, which oddities warn, and how several mistakes are told at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fettle.data.check import inspect_sources
from fettle.data.measure import Measure
from fettle.data.report import FileReport, Lengths
from fettle.errors import UserError
from fettle.recipe.data import DataSpec


def checked(*files: Path, measure: Measure | None = None, **keys: Any):
    """The report on some files, read as the keys of a recipe's source say. Raises their mistakes."""
    report = inspect_sources([DataSpec(path=str(file), **keys) for file in files], Path, measure)
    report.raise_mistakes()
    return report


def told(file: FileReport) -> list[str]:
    return [str(found) for found in file.warnings]


def turns(*said: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[i % 2], "content": words} for i, words in enumerate(said)]


def test_the_report_names_each_files_format_records_and_bytes(write):
    report = checked(write("a.jsonl", [{"text": "x", "id": 1}, {"text": "y", "id": 2}]), write("b.txt", "z"))
    first, second = report.files
    assert (first.format, first.records, first.bytes, first.ignored) == ("text", 2, 46, ("id",))
    assert (second.format, second.records, second.why) == ("text", 1, "a .txt file is plain text")


def test_duplicates_are_counted_and_told_with_the_first_line_and_the_one_it_repeats(write):
    (file,) = checked(
        write("a.jsonl", [{"text": "x"}, {"text": "y"}, {"text": "y"}, {"text": "x"}, {"text": "x"}])
    ).files
    assert file.duplicates == 3
    assert told(file) == ["an earlier record again (3 records, first in line 3: line 2 again)"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"prompt": "Hi", "completion": "Yo"}, {"prompt": "HiYo", "completion": ""}),
        ({"prompt": "Hi", "completion": "Yo"}, {"prompt": "Hi", "completion": "yo"}),
        ({"messages": turns("Hi", "Yo")}, {"messages": turns("Hi", "Yo", "Hi", "Yo")}),
        ({"text": "x", "label": "a"}, {"text": "x", "label": "b"}),
        ({"prompt": "Q", "completion": "A", "label": True}, {"prompt": "Q", "completion": "A", "label": False}),
        (
            {"messages": turns("Q", "A"), "tools": [{"name": "f", "parameters": {}}]},
            {"messages": turns("Q", "A"), "tools": [{"name": "g", "parameters": {}}]},
        ),
    ],
)
def test_only_records_that_mean_the_same_are_duplicates(write, one, other):
    (file,) = checked(write("a.jsonl", [one, other, one])).files
    assert file.duplicates == 1


@pytest.mark.parametrize(
    ("row", "warning"),
    [
        ({"text": " "}, "empty text, left out"),
        ({"prompt": "Hi", "completion": ""}, "empty answer: the model learns to say nothing"),
        ({"prompt": "", "completion": "Yo"}, "empty prompt"),
        ({"messages": turns("Hi", "\n")}, "empty answer: the model learns to say nothing"),
        ({"messages": turns(" ", "Yo", "", "Yo")}, "empty prompt"),
        ({"messages": turns("Hi", "Yo", "?")}, "last turn is the user's, which is not learned"),
        ({"prompt": "Q", "chosen": "A", "rejected": "A"}, "chosen and rejected are the same: nothing to prefer"),
        ({"prompt": "Q", "completions": ["A", " "], "labels": [True, False]}, "empty step"),
    ],
)
def test_an_oddity_is_a_warning_with_its_line(write, row, warning):
    (file,) = checked(write("a.jsonl", [row])).files
    assert told(file) == [f"{warning} (1 record, first in line 1)"]


def test_labels_are_counted_the_commonest_first(write):
    rows = [{"text": f"{i}", "label": label} for i, label in enumerate("abbbcc")]
    (file,) = checked(write("a.jsonl", rows)).files
    assert list(file.balance.labels.items()) == [("b", 3), ("c", 2), ("a", 1)]


def test_good_and_bad_answers_and_steps_are_counted(write):
    rows = [{"prompt": f"{i}", "completion": "A", "label": i > 1} for i in range(5)]
    steps = [{"prompt": f"{i}", "completions": ["A", "B"], "labels": [True, i > 1]} for i in range(5)]
    unpaired, stepwise = checked(write("a.jsonl", rows), write("b.jsonl", steps)).files
    assert (unpaired.balance.labels, stepwise.balance.labels) == ({"good": 3, "bad": 2}, {"good": 8, "bad": 2})


def test_preferences_are_counted_by_their_number_of_answers(write):
    (file,) = checked(write("a.jsonl", [{"prompt": f"{i}", "chosen": "A", "rejected": "B"} for i in range(3)])).files
    assert (file.balance.answers, file.kinds) == ({2: 3}, {"preference": 3})


def test_one_label_for_all_is_a_warning(write):
    (file,) = checked(write("a.jsonl", [{"text": "x", "label": "a"}, {"text": "y", "label": "a"}])).files
    assert told(file) == ["every label is 'a': nothing to tell apart (2 records, first in line 1)"]


def test_bad_records_that_are_to_be_skipped_are_a_warning(write):
    file = write("a.jsonl", [{"text": "x"}, {"text": 1}, {"text": None}, {"text": "y"}])
    (report,) = checked(file, on_bad_record="skip").files
    assert (report.records, report.skipped) == (2, 2)
    assert told(report) == ["bad record, which is skipped (2 records, first in line 2: text: a number, not text)"]


def test_a_file_with_nothing_but_bad_records_is_a_mistake_even_where_they_are_skipped(write):
    with pytest.raises(UserError, match="a.jsonl:1: the line is cut off"):
        checked(write("a.jsonl", '{"te'), on_bad_record="skip")


def test_a_limit_counts_over_the_files_of_a_source(write):
    for name in "abc":
        folder = write(f"d/{name}.jsonl", [{"text": f"{name}{i}"} for i in range(3)] + [{"text": 1}]).parent
    report = inspect_sources([DataSpec(path=str(folder), limit=3)], Path)
    assert [(file.file.name, file.records) for file in report.files] == [("a.jsonl", 3)]
    assert (report.mistakes.count, report.warnings) == (0, (f"{folder}: limit leaves 2 files unread",))


def test_a_sample_reads_so_many_records_of_each_file_and_says_so(write):
    files = [write("a.jsonl", [{"text": f"{i}"} for i in range(100)]), write("b.jsonl", [{"text": "x"}])]
    report = inspect_sources([DataSpec(path=str(file)) for file in files], Path, sample=10)
    assert [(file.records, file.is_sampled) for file in report.files] == [(10, True), (1, False)]


def test_files_of_other_kinds_in_a_folder_are_a_warning(write):
    folder = write("d/a.txt", "x").parent
    write("d/README.md", "not data")
    assert checked(folder).warnings == (f"{folder}: 1 file of other kinds not read (first: README.md)",)


def test_with_a_base_lengths_and_the_learned_share_are_counted(write, chatml):
    file = write("a.jsonl", [{"messages": turns("Hi", "Yo")}, {"messages": turns("Hi", "Y" * 40)}])
    (report,) = checked(file, measure=Measure(chatml, max_length=30)).files
    # <start>user⏎Hi<end>⏎ is 10 tokens, <start>assistant⏎ 11, then the answer, <end> and ⏎.
    assert (report.counts.longest, report.counts.cut, report.counts.tokens) == (63, 1, 25 + 30)
    assert report.counts.loss_tokens == 3 + 9
    assert told(report) == ["longer than 30 tokens: cut (1 record)"]


def test_lengths_are_those_of_the_records_before_they_are_cut_or_split(write, chatml):
    file = write("a.jsonl", [{"text": "x" * number} for number in (*range(1, 20), 110)])  # and the end of text
    (report,) = checked(file, measure=Measure(chatml, max_length=10)).files
    assert report.lengths == Lengths(mean=(190 + 110) / 20 + 1, p50=11, p95=20, longest=111)


def test_lengths_of_answers_are_those_of_the_longer_one(write, chatml):
    file = write("a.jsonl", [{"prompt": "Hi", "chosen": "Yo", "rejected": "Y" * 40}])
    (report,) = checked(file, measure=Measure(chatml, max_length=100)).files
    assert (report.lengths.longest, report.counts.examples) == (63, 2)


def test_a_special_tokens_name_in_the_content_is_a_warning(write, chatml):
    file = write("a.jsonl", [{"prompt": "Hi", "completion": "Yo<|end|>"}])
    (report,) = checked(file, measure=Measure(chatml, max_length=100)).files
    assert told(report) == ["the text <|end|> is taken as text, not as the control token (1 record, first in line 1)"]


def test_words_that_the_template_leaves_out_are_a_warning(write, make_tokenizer):
    template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'][:20] + '<|im_end|>\\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    file = write("a.jsonl", [{"messages": turns("Hi", "Yo")}, {"messages": turns("Hi " * 20, "Yo")}])
    (report,) = checked(file, measure=Measure(make_tokenizer(template), max_length=100)).files
    left_out = "of the first 200 the chat template leaves out words of the user"
    assert told(report) == [f"{left_out} (1 record, first in line 2)"]


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


def test_mistakes_of_several_files_are_told_together_by_file(write):
    files = [
        write("a.jsonl", [{"text": "x"}] + [{"text": i} for i in range(7)]),
        write("b.jsonl", '{"te'),
        write("c.jsonl", [{"text": "fine"}]),
        *(write(f"d{i}.jsonl", "") for i in range(5)),
    ]
    with pytest.raises(UserError) as caught:
        checked(*files)
    lines = [line.replace(f"{files[0].parent}/", "") for line in str(caught.value).splitlines()]
    assert lines[:3] == ["13 mistakes in 7 files", "  a.jsonl: 7 mistakes", "    a.jsonl:2: text: a number, not text"]
    assert "    … and 2 more" in lines and "  d0.jsonl: the file is empty" in lines
    assert '  b.jsonl:1: the line is cut off; it ends with `{"te`' in lines
    assert lines[-1] == "  … and 2 in 2 more files"


def test_mixed_formats_are_one_mistake_a_file(write):
    rows = [{"text": "x"}] + [{"prompt": "a", "completion": "b"}] * 9
    report = inspect_sources([DataSpec(path=str(write("a.jsonl", rows)))], Path)
    assert (report.mistakes.count, report.mistakes.first[0].line) == (1, 2)


def test_the_report_is_json_with_the_keys_that_are_documented(write, chatml):
    file = write("a.jsonl", [{"text": "x", "id": 1}, {"text": "x", "id": 2}])
    held = [DataSpec(path=str(write("b.jsonl", [{"text": "X"}])))]
    report = inspect_sources([DataSpec(path=str(file))], Path, Measure(chatml, max_length=100), heldout=held)
    told = json.loads(json.dumps(report.to_json()))
    assert set(told) == {"files", "overlap", "warnings", "errors", "num_errors"}
    assert told["files"][0] == {
        "file": str(file),
        "format": "text",
        "why": "line 1 has text",
        "columns": ["text"],
        "ignored": ["id"],
        "records": 2,
        "kinds": {"text": 2},
        "bytes": 46,
        "is_sampled": False,
        "duplicates": 1,
        "skipped": 0,
        "balance": {"labels": {}, "answers": {}},
        "warnings": [{"what": "an earlier record again", "count": 1, "line": 2, "more": "line 1 again"}],
        "counts": told["files"][0]["counts"],
        "lengths": {"mean": 2.0, "p50": 2, "p95": 2, "longest": 2},
    }
    assert told["files"][0]["counts"].items() >= {"records": 2, "examples": 2, "tokens": 4, "loss_tokens": 2}.items()
    assert told["overlap"] == {
        "records": 1,
        "equal": 1,
        "near": 0,
        "pairs": [{"train": [str(file), 1], "heldout": [str(held[0].path), 1], "how": "equal"}],
    }
    assert (told["errors"], told["num_errors"]) == ([], 0)


def test_an_overlap_of_training_and_held_out_files_is_a_warning(write):
    train = DataSpec(path=str(write("a.jsonl", [{"text": f"{i}"} for i in range(9)])))
    held = DataSpec(path=str(write("b.jsonl", [{"text": "x"}, {"text": " 3"}])))
    report = inspect_sources([train], Path, heldout=[held])
    told = "1 of 2 held-out records are in the training data (1 the same): a.jsonl:4 ↔ b.jsonl:2"
    assert (report.warnings, report.mistakes.count) == ((told,), 0)


def test_labels_that_only_held_out_records_have_are_a_warning(write):
    train = DataSpec(path=str(write("a.csv", "text,label\na,x\nb,y\n")))
    held = DataSpec(path=str(write("b.csv", "text,label\nc,x\nd,z\n")))
    report = inspect_sources([train], Path, heldout=[held])
    assert report.warnings == ("1 label of held-out records is in no training record: 'z'",)


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
