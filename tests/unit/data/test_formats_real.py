"""Every file of ../shared/data loads, in the format it is in, with as many records as its README says."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from fettle.data.formats import read_file
from fettle.errors import UserError

FILES = {
    "classify/banking77_test.csv": ("classification", "label", 3080),  # the README counts the line of column names too
    "classify/banking77_train.csv": ("classification", "label", 10003),
    "preference/dpo_en_demo.json": ("preference", "preference", 300),
    "preference/hh_harmless_test.jsonl": ("preference", "preference", 2312),
    "preference/hh_harmless_test.jsonl.gz": ("preference", "preference", 2312),
    "preference/kto_en_demo.json": ("unpaired", "unpaired", 300),
    "pretrain/c4_demo.jsonl": ("text", "text", 300),
    "pretrain/rust_book.jsonl": ("text", "text", 112),
    "pretrain/stories_classic.jsonl": ("text", "text", 209),
    "pretrain/stories_sf.jsonl": ("text", "text", 294),
    "pretrain/tinyshakespeare.txt": ("text", "text", 1),
    "pretrain/tinystories_slice.jsonl": ("text", "text", 849),
    "pretrain/wiki_demo.txt": ("text", "text", 1),
    "rlvr/arithmetic.jsonl": ("query_response", "prompt_completion", 5000),
    "rlvr/gsm8k_test.jsonl": ("query_response", "prompt_completion", 1319),
    "rlvr/gsm8k_train.jsonl": ("query_response", "prompt_completion", 7473),
    "rlvr/humaneval.jsonl": ("prompt", "prompt", 164),
    "sft/alpaca_en_demo.json": ("alpaca", "prompt_completion", 999),
    "sft/glaive_toolcall_en_demo.json": ("sharegpt", "messages", 300),
    "sft/gpteacher_codegen.json": ("alpaca", "prompt_completion", 4535),
    "sft/gpteacher_roleplay.json": ("alpaca", "prompt_completion", 1923),
    "sft/self_instruct_seed_tasks.jsonl": ("alpaca", "prompt_completion", 175),
    "sft/summarise/scitldr_dev.jsonl": ("query_response", "prompt_completion", 619),
    "sft/summarise/scitldr_test.jsonl": ("query_response", "prompt_completion", 618),
    "sft/summarise/scitldr_train.jsonl": ("query_response", "prompt_completion", 1992),
    "sft/t0_prompt_completion.jsonl": ("prompt_completion", "prompt_completion", 2400),
    "sft/v1_sft_demo.jsonl": ("messages", "messages", 500),
}


@pytest.mark.parametrize("path", FILES)
def test_a_file_has_the_format_and_the_records_its_readme_says(shared, path):
    format_, records = read_file(shared(f"data/{path}"))
    name, kind, count = FILES[path]
    assert (format_.name, Counter(record.kind for record in records)) == (name, {kind: count})


def test_each_book_is_one_text(shared):
    books = sorted(shared("data/pretrain/books").glob("*.txt"))
    assert [len(list(read_file(book)[1])) for book in books] == [1] * 23


def test_every_data_file_is_in_the_table(shared):
    root = shared("data")
    there = {str(file.relative_to(root)) for file in root.rglob("*") if file.is_file()}
    assert {path for path in there if "/books/" not in path} - {"README.md"} == set(FILES)


def test_glaives_calls_have_their_arguments_as_objects_and_replies_follow_them(shared):
    conversations = [r.conversation for r in read_file(shared("data/sft/glaive_toolcall_en_demo.json"))[1]]
    pairs = [(turn, turns[place + 1]) for turns in conversations for place, turn in enumerate(turns) if turn.tool_calls]
    assert len(pairs) == 211
    assert all(isinstance(turn.tool_calls[0]["function"]["arguments"], dict) for turn, _ in pairs)
    assert all(turn.bears_loss and reply.role == "tool" for turn, reply in pairs)


def test_an_hh_prompt_and_its_answer_put_together_are_the_published_text(shared):
    file = shared("data/preference/hh_harmless_test.jsonl")
    published = [json.loads(line) for line in file.read_bytes().splitlines()]
    for record in read_file(file)[1]:
        for name, answer in zip(("chosen", "rejected"), record.answers, strict=True):
            said = "\n\nAssistant: ".join(turn.content for turn in answer.turns)
            words = published[record.line - 1][name].split()
            assert (record.prompt.plain[0] + said).split() == words


def test_a_torn_copy_of_a_real_file_is_told(shared, write):
    raw = shared("data/sft/alpaca_en_demo.json").read_bytes()
    with pytest.raises(UserError, match="the file is cut off"):
        list(read_file(write("a.json", raw[: len(raw) // 2]))[1])
