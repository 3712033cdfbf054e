"""Data that lies elsewhere: addresses and hub ids become files, fetched once, or one clear message."""

from __future__ import annotations

import gzip
import http.server
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import fsspec
import pytest

from fettle.data.sources import open_source, read_source
from fettle.recipe.data import DataSpec
from reading import message, opened

pytestmark = pytest.mark.usefixtures("cache")
ROW = '{"text": "x"}\n'


@pytest.fixture
def memory():
    """fsspec's file system in memory, empty."""
    files = fsspec.filesystem("memory")
    files.store.clear()
    return files


def texts(path: str) -> list[str | None]:
    return [record.text for record in read_source(opened(path))]


def test_an_address_is_fetched_once_and_keeps_its_name(memory, cache, monkeypatch):
    memory.pipe("/bucket/a.jsonl.gz", gzip.compress(ROW.encode()))
    (file,) = opened("memory://bucket/a.jsonl.gz").files
    assert file.name == "a.jsonl.gz" and file.is_relative_to(cache)
    monkeypatch.setattr(type(memory), "get_file", None)  # a second fetch would call it
    assert texts("memory://bucket/a.jsonl.gz") == ["x"]


def test_a_file_changed_at_its_address_is_fetched_again(memory):
    memory.pipe("/a.txt", b"old")
    assert texts("memory://a.txt") == ["old"]
    memory.pipe("/a.txt", b"new")
    assert texts("memory://a.txt") == ["new"]


def test_nothing_is_left_of_a_fetch_that_breaks_off(memory, cache, monkeypatch):
    def broken(self, path, local, **more):
        Path(local).write_text("half")
        raise ConnectionResetError("reset by peer")

    memory.pipe("/a.txt", b"whole")
    monkeypatch.setattr(type(memory), "get_file", broken)
    told = message(lambda: opened("memory://a.txt"))
    assert "memory://a.txt: it cannot be fetched (ConnectionResetError: reset by peer)" in told
    assert not [file for file in cache.rglob("*") if file.is_file()]


def test_an_address_with_a_star_or_of_a_folder_means_its_data_files(memory):
    memory.pipe({"/corpus/2.txt": b"two", "/corpus/deep/1.txt": b"one", "/corpus/README.md": b"no"})
    assert texts("memory://corpus/*.txt") == ["two"]
    source = opened("memory://corpus")
    assert [file.name for file in source.files] == ["2.txt", "1.txt"]
    assert [file.name for file in source.passed_over] == ["README.md"]


def test_a_file_address_is_the_file_itself(write):
    file = write("a b.txt", "x")
    assert opened(file.as_uri()).files == (file,)
    assert opened(f"file://{file.parent}/*.txt").files == (file,)


def test_a_web_address_is_fetched_by_its_name_without_the_query(write):
    folder = write("a.txt", "x").parent
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=folder)
    handler.func.log_message = lambda *_: None
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        try:
            assert opened(f"{address}/a.txt?download=true").files[0].name == "a.txt"
            assert "none.txt: no such file there" in message(lambda: opened(f"{address}/none.txt"))
            assert "unknown suffix '.md'" in message(lambda: opened(f"{address}/README.md"))
        finally:
            server.shutdown()
    assert "it cannot be fetched (" in message(lambda: opened(f"{address}/a.txt"))  # nobody listens any more


def test_a_missing_address_is_told_at_the_recipes_line(memory):
    where = {"file": "recipe.yaml", "line": 7, "field": "stages.sft.data"}
    told = message(lambda: open_source(DataSpec(path="memory://none.jsonl"), Path, **where))
    assert told == "recipe.yaml:7: stages.sft.data: memory://none.jsonl: no such file there"


@pytest.mark.parametrize("address", ["memory://none", "memory://none/*.jsonl"])
def test_an_address_with_no_data_file_is_told(memory, address):
    assert f"{address}: no data file there" in message(lambda: opened(address))


def test_a_scheme_whose_package_is_missing_is_told_with_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    told = message(lambda: opened("s3://bucket/a.jsonl"))
    assert told.startswith("s3://bucket/a.jsonl: the package s3fs is missing, which reads s3:// addresses")
    assert told.endswith("fix: pip install s3fs")


def test_an_unknown_scheme_is_told_with_the_nearest():
    assert "unknown scheme 'htps://' (did you mean 'https'?)" in message(lambda: opened("htps://a.com/a.jsonl"))


def test_a_recipe_does_not_take_an_address_for_a_path_beside_it(memory):
    memory.pipe("/a.txt", b"x")
    assert len(opened("memory://a.txt", resolve=lambda path: Path("/recipes") / path).files) == 1


def test_a_registry_may_lie_at_an_address_too(memory):
    memory.pipe({"/lf/dataset_info.json": b'{"a": {"file_name": "a.json"}}', "/lf/a.json": b'[{"instruction": "i", '
                 b'"output": "o"}]'})  # fmt: skip
    (record,) = read_source(opened("memory://lf/dataset_info.json#a"))
    assert record.completion == "o"


def test_a_check_of_a_local_file_imports_no_library_for_tables_or_the_hub(write):
    code = (
        "import sys; from fettle.cli.main import main\n"
        "try: main()\n"
        "finally: print([m for m in ('datasets', 'pyarrow', 'huggingface_hub', 'fsspec') if m in sys.modules])"
    )
    words = [sys.executable, "-c", code, "data", "check", str(write("a.jsonl", ROW))]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "[]"), done.stderr
