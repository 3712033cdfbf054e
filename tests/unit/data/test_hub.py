"""Data sets of the hub: fetched once for each commit, or one clear message."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import datasets
import httpx
import huggingface_hub
import pytest
from huggingface_hub import DatasetCardData
from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

from fettle.data.remote import hub_id, is_address
from reading import message, opened

pytestmark = pytest.mark.usefixtures("cache")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("squad", "squad"),
        ("Open-Orca/OpenOrca", "Open-Orca/OpenOrca"),
        ("argilla/magpie-ultra-v0.1", "argilla/magpie-ultra-v0.1"),
        ("hf://datasets/owner/name.final", "owner/name.final"),
        ("https://huggingface.co/datasets/owner/name/", "owner/name"),
        ("data/trian.jsonl", None),
        ("data/trian.json.gz", None),
        ("notes.docx", None),
        ("a/b/c", None),
        ("./squad", None),
        ("../squad", None),
        ("/data/squad", None),
        ("~/squad", None),
        ("corpus/*", None),
        ("hf://datasets/owner/name/train.jsonl", None),
        ("https://huggingface.co/datasets/owner/name/resolve/main/a.jsonl", None),
    ],
)
def test_a_hub_id_is_told_from_a_files_name(path, name):
    assert hub_id(path) == name


def test_a_path_with_a_colon_is_no_address():
    assert not is_address("data:v2/a.jsonl") and not is_address("file:///a.jsonl") and is_address("gs://b/a.jsonl")


@dataclass
class Hub:
    """A hub that has one data set, `owner/name`, with the splits train and test, and counts what is asked of it."""

    commit: str = "c0ffee"
    subsets: tuple[str, ...] = ("default",)
    failure: Exception | None = None
    loads: list[tuple[str, str | None, str]] = field(default_factory=list)

    def dataset_info(self, name, revision=None, timeout=None):
        response = httpx.Response(404, request=httpx.Request("GET", "https://hub"))
        if self.failure is not None:
            raise self.failure
        if name != "owner/name":
            raise RepositoryNotFoundError("404", response=response)
        if revision not in (None, self.commit):
            raise RevisionNotFoundError("404", response=response)
        return SimpleNamespace(sha=self.commit, card_data=DatasetCardData(license="cc-by-4.0"))

    def load_dataset(self, name, subset=None, *, data_dir, split, revision, cache_dir):
        self.loads.append((name, subset, split))
        if subset is None and len(self.subsets) > 1:
            raise ValueError("Config name is missing.\nPlease pick one")
        if split not in ("train", "test") or subset not in (None, *self.subsets):
            raise ValueError("one of datasets' many")
        return datasets.Dataset.from_list([{"prompt": f"{split} {self.commit}", "completion": "x"}])


@pytest.fixture
def hub(monkeypatch) -> Hub:
    hub = Hub()
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: hub)
    monkeypatch.setattr(datasets, "load_dataset", hub.load_dataset)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name, revision: list(hub.subsets))
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, subset, revision: ["train", "test"])
    return hub


def rows_of(source) -> list[dict]:
    return datasets.Dataset.from_parquet(str(source.files[0])).to_list()


def test_a_hub_id_is_exported_once_for_each_commit(hub, cache):
    assert rows_of(opened("owner/name")) == [{"prompt": "train c0ffee", "completion": "x"}]
    assert opened("owner/name").files[0].is_relative_to(cache / "hub" / "owner--name")
    assert len(hub.loads) == 1
    hub.commit = "beef"
    assert rows_of(opened("hf://datasets/owner/name")) == [{"prompt": "train beef", "completion": "x"}]


def test_subset_and_split_choose_a_part_of_the_hubs_set(hub):
    hub.subsets = ("en", "de")
    (row,) = rows_of(opened("owner/name", hub={"subset": "de", "split": "test"}))
    assert row["prompt"] == "test c0ffee" and hub.loads == [("owner/name", "de", "test")]


def test_a_folder_of_that_name_is_the_folder_and_not_the_hubs_set(hub, write, monkeypatch):
    folder = write("owner/name/a.txt", "x").parents[2]
    assert [file.name for file in opened("owner/name", resolve=lambda path: folder / path).files] == ["a.txt"]


@pytest.mark.parametrize(
    ("path", "part", "told"),
    [
        ("owner/nmae", {}, "no such file or folder, and no such data set on the hub"),
        ("hf://datasets/owner/nmae", {}, "owner/nmae: no such data set on the hub"),
        ("owner/name", {"revision": "v2"}, "no revision 'v2' of it on the hub"),
        ("owner/name", {"split": "tset"}, "no split 'tset' in it (did you mean 'test'?)\n  expected: train, test"),
        ("owner/name", {"subset": "fr"}, "no subset 'fr' in it\n  expected: default"),
    ],
)
def test_what_the_hub_does_not_have_is_told_with_what_it_has(hub, path, part, told):
    assert told in message(lambda: opened(path, **({"hub": part} if part else {})))


def test_several_subsets_of_which_none_is_chosen_are_listed(hub):
    hub.subsets = ("en", "de")
    told = message(lambda: opened("owner/name"))
    assert told == "owner/name: it has 2 subsets\n  expected: en, de\n  fix: say which: hub: {subset: en}"


def test_a_misspelt_file_that_could_be_a_hub_id_is_told_as_both(hub, write):
    write("corpus/a.txt", "x")
    told = message(lambda: opened("corpsu", resolve=lambda path: write("x", "") and write("x", "").parent / path))
    assert "no such file or folder (did you mean 'corpus'?), and no such data set on the hub" in told


@pytest.mark.parametrize("failure", [httpx.ConnectError("Name or service not known"), OfflineModeIsEnabled("offline")])
def test_without_the_hub_what_was_fetched_before_is_read(hub, failure):
    before = opened("owner/name").files
    hub.failure = failure
    assert opened("owner/name").files == before


def test_an_unreachable_hub_is_told(hub):
    hub.failure = httpx.ConnectError("Name or service not known")
    told = message(lambda: opened("owner/name"))
    assert "no such file or folder, and the hub cannot be reached (ConnectError: Name or service not known)" in told


def test_part_of_a_hub_set_is_refused_for_what_is_none(write):
    told = message(lambda: opened(str(write("a.jsonl", [{"text": "x"}])), hub={"split": "test"}))
    assert "hub: says which part of a data set on the hub, and this is none" in told


def test_offline_a_name_that_is_nowhere_is_one_message_and_exit_2(tmp_path):
    words = [sys.executable, "-c", "from fettle.cli.main import main; main()", "data", "check", "owner/name"]
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run(words, capture_output=True, text=True, env=env, cwd=tmp_path)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "no such file or folder, and the hub is not asked (HF_HUB_OFFLINE)" in done.stderr
