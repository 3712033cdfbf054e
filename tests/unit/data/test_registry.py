"""LLaMA-Factory's dataset_info.json: what an entry means, and the one clear message for what cannot be read."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from fettle.data.registry import look_up
from fettle.data.sources import open_source, read_source
from fettle.recipe.data import DataSpec
from reading import message, opened

# Entries of LLaMA-Factory's own data/dataset_info.json (commit 00577a85775a).
ENTRIES = json.loads((Path(__file__).parent / "llama_factory_entries.json").read_text(encoding="utf-8"))


@pytest.fixture
def registry(write):
    """`registry(entries)`: a dataset_info.json that holds them."""

    def registry(entries: object = ENTRIES) -> Path:
        return write("dataset_info.json", json.dumps(entries, indent=2))

    return registry


@pytest.mark.parametrize(
    ("name", "adds"),
    [
        ("alpaca_en_demo", {"path": "alpaca_en_demo.json", "format": "alpaca"}),
        ("glaive_toolcall_en_demo", {"path": "glaive_toolcall_en_demo.json", "format": "sharegpt"}),
        ("alpaca_en", {"path": "hf://datasets/llamafactory/alpaca_en", "format": "alpaca"}),
        (
            "openorca",
            {
                "path": "hf://datasets/Open-Orca/OpenOrca",
                "format": "alpaca",
                "columns": {"instruction": "question", "output": "response", "system": "system_prompt"},
            },
        ),
        (
            "ultrachat_200k",
            {
                "path": "hf://datasets/HuggingFaceH4/ultrachat_200k",
                "format": "messages",
                "hub": {"split": "train_sft"},
            },
        ),
        ("dpo_en_demo", {"path": "dpo_en_demo.json", "format": "preference"}),
        (
            "dpo_mix_en",
            {"path": "hf://datasets/llamafactory/DPO-En-Zh-20k", "format": "preference", "hub": {"subset": "en"}},
        ),
        (
            "orca_pairs",
            {
                "path": "hf://datasets/Intel/orca_dpo_pairs",
                "format": "preference",
                "columns": {"instruction": "question"},
            },
        ),
        ("kto_en_demo", {"path": "kto_en_demo.json", "format": "unpaired", "columns": {"kto_tag": "label"}}),
        ("wiki_demo", {"path": "wiki_demo.txt", "format": "text"}),
        (
            "refinedweb",
            {"path": "hf://datasets/tiiuae/falcon-refinedweb", "format": "text", "columns": {"text": "content"}},
        ),
        (
            "starcoder_python",
            {
                "path": "hf://datasets/bigcode/starcoderdata",
                "format": "text",
                "columns": {"text": "content"},
                "hub": {"folder": "python"},
            },
        ),
    ],
)
def test_an_entry_adds_its_path_format_columns_and_part_of_the_hub(registry, name, adds):
    assert look_up(registry(), name, DataSpec(path="x")) == DataSpec(**adds)


def test_tags_of_its_own_become_roles_and_keys(registry):
    tags = {"role_tag": "speaker", "content_tag": "words", "user_tag": "Customer", "assistant_tag": "Agent"}
    file = registry({"calls": {"file_name": "calls.json", "formatting": "sharegpt", "tags": tags}})
    read = look_up(file, "calls", DataSpec(path="x"))
    assert read.columns == {"role": "speaker", "content": "words"}
    assert read.roles == {"user": "Customer", "assistant": "Agent"}


def test_what_the_recipe_says_wins_over_the_entry(registry):
    own = DataSpec(path="x", limit=7, columns={"output": "reply"}, weight=2.0)
    read = look_up(
        registry({"a": {"file_name": "a.json", "num_samples": 3, "columns": ENTRIES["openorca"]["columns"]}}), "a", own
    )
    assert (read.limit, read.weight, read.format) == (7, 2.0, "alpaca")
    assert read.columns == {"instruction": "question", "output": "reply", "system": "system_prompt"}


def test_another_format_than_the_entrys_has_none_of_its_columns(registry):
    read = look_up(registry(), "openorca", DataSpec(path="x", format="prompt", columns={"prompt": "question"}))
    assert (read.format, read.columns) == ("prompt", {"prompt": "question"})


def test_records_lie_beside_the_registry_wherever_the_recipe_is(registry, write):
    file = registry({"deep": {"file_name": "sub/a.jsonl", "columns": {"prompt": "content"}, "num_samples": 1}})
    write("sub/a.jsonl", [{"text": "wrong", "content": "right"}, {"content": "more"}])
    source = opened("data/dataset_info.json#deep", lambda path: Path(str(file.parent / path).replace("data/", "")))
    assert [record.text for record in read_source(source)] == ["right"]
    assert source.spec.path == "data/dataset_info.json#deep"


def test_a_folder_of_an_entry_is_read_like_any_folder(registry, write):
    write("books/1.txt", "one")
    write("books/2.txt", "two")
    source = opened(f"{registry({'books': {'file_name': 'books', 'columns': {'prompt': 'text'}}})}#books")
    assert [record.text for record in read_source(source)] == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("alpaca_en_demo", "sft/alpaca_en_demo.json"),
        ("glaive_toolcall_en_demo", "sft/glaive_toolcall_en_demo.json"),
        ("dpo_en_demo", "preference/dpo_en_demo.json"),
        ("kto_en_demo", "preference/kto_en_demo.json"),
        ("wiki_demo", "pretrain/wiki_demo.txt"),
        ("c4_demo", "pretrain/c4_demo.jsonl"),
    ],
)
def test_llama_factorys_own_sets_read_the_same_through_its_registry(registry, shared, name, file):
    path, folder = shared(f"data/{file}"), registry()
    (folder.parent / path.name).symlink_to(path)
    assert list(read_source(opened(f"{folder}#{name}"))) == list(read_source(opened(str(folder.parent / path.name))))


def test_an_unknown_name_is_told_with_the_nearest_and_some_others(registry):
    told = message(lambda: opened(f"{registry()}#alpaca_demo"))
    assert "no data set 'alpaca_demo' in it (did you mean 'alpaca_en_demo'?)" in told
    assert "expected: identity, alpaca_en_demo, glaive_toolcall_en_demo," in told and "… and 7 more" in told


def test_a_registry_without_a_name_is_told_with_how_to_say_one(registry):
    told = message(lambda: opened(str(registry())))
    assert "a registry of data sets, and none is named" in told
    assert f"fix: {registry()}#identity" in told


def test_a_mistake_in_a_recipe_is_told_at_the_recipes_line(registry):
    where = {"file": "recipe.yaml", "line": 7, "field": "stages.sft.data"}
    told = message(lambda: open_source(DataSpec(path=f"{registry()}#x"), Path, **where))
    assert told.startswith(f"recipe.yaml:7: stages.sft.data: {registry()}: no data set 'x' in it")


def test_a_missing_registry_is_told_like_any_missing_file(tmp_path):
    assert "dataset_info.json: no such file or folder" in message(lambda: opened(f"{tmp_path}/dataset_info.json#x"))


def test_a_missing_file_of_an_entry_is_told(registry):
    assert "identity.json: no such file or folder" in message(lambda: opened(f"{registry()}#identity"))


@pytest.mark.parametrize(
    ("entry", "field", "got"),
    [
        ({"file_name": "a.json", "columns": {"messages": "m", "images": "i"}}, "columns.images", "images are not read"),
        ({"ms_hub_url": "a/b"}, "ms_hub_url", "another hub than Hugging Face's is not read"),
        ({"script_url": "a"}, "script_url", "a loading script is not read"),
        ({"formatting": "sharegpt"}, None, "no file_name and no hf_hub_url"),
        ({"file_name": "a.json", "formating": "sharegpt"}, "formating", "unknown key (did you mean 'formatting'?)"),
        ({"file_name": "a.json", "formatting": "chatml"}, "formatting", "unknown value 'chatml'"),
        ({"file_name": "a.json", "columns": {"promt": "q"}}, "columns.promt", "unknown key (did you mean 'prompt'?)"),
        ({"file_name": "a.json", "columns": ["q"]}, "columns", "not an object"),
        ({"file_name": "a.json", "tags": {"role_tag": 3}}, "tags.role_tag", "not text"),
        ({"file_name": "a.json", "num_samples": 0}, "num_samples", "0 is no number of records"),
        ({"file_name": 3}, "file_name", "not text"),
        ({"hf_hub_url": "a/b", "subset": 3}, "subset", "not text"),
    ],
)
def test_an_entry_that_cannot_be_read_is_told_with_its_line_and_key(registry, entry, field, got):
    file = registry({"first": {"file_name": "first.json"}, "bad": entry})
    place = f"bad.{field}" if field else "bad"
    assert message(lambda: opened(f"{file}#bad")).startswith(f"{file}:5: {place}: {got}")  # { first { file_name } bad


def test_notes_in_an_entry_are_passed_over_as_llama_factory_does(registry, write):
    write("a.json", '[{"instruction": "Hi", "output": "Yo"}]')
    file = registry({"a": {"file_name": "a.json", "file_sha1": "0b3f", "license": "MIT", "_comment": "mine"}})
    assert len(list(read_source(opened(f"{file}#a")))) == 1


@pytest.mark.parametrize(
    ("content", "got"),
    [
        ('[{"ms_dataset_id": "swift/a", "hf_dataset_id": "b/a"}]', "a list, which is ms-swift's kind of registry"),
        ('{\n"a": {"file_name": }}', "not valid JSON"),
        ("3", "not an object"),
        ('{"a": "a.json"}', "not an object"),
    ],
)
def test_a_registry_of_another_kind_is_told(write, content, got):
    assert got in message(lambda: opened(f"{write('dataset_info.json', content)}#a"))


def test_a_registry_in_a_folder_or_glob_is_passed_over(registry, write):
    folder = registry().parent
    write("a.json", '[{"text": "x"}]')
    for path in (folder, folder / "*.json"):
        source = opened(str(path))
        assert [file.name for file in source.files] == ["a.json"]
        assert [file.name for file in source.passed_over] == ["dataset_info.json"]


def test_a_file_with_a_hash_in_its_name_is_a_file(write):
    assert opened(str(write("a.json#1.jsonl", [{"text": "x"}]))).files[0].name == "a.json#1.jsonl"


def test_the_pages_registry_reads_what_the_page_says(write):
    root = Path(__file__).parents[3]
    (block,) = re.findall(r"```json\n(.*?)```", (root / "docs" / "data.md").read_text(encoding="utf-8"), re.S)
    file = write("dataset_info.json", block)
    for name in ("tasks.jsonl", "chat.jsonl", "corpus"):
        own = root / "recipes" / "northline" / name
        (file.parent / name).symlink_to(own)
        assert list(read_source(opened(f"{file}#{own.stem}"))) == list(read_source(opened(str(file.parent / name))))
