"""`storage`: a bucket, a folder, or none; and it changes nothing that is computed."""

from __future__ import annotations

import pytest

from fettle.recipe.storage import StorageSpec

RECIPE = "name: a\nstages: [{name: s, kind: sft, data: x.jsonl}]\n"


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("", None),
        ("storage: off", None),  # which YAML reads as false
        ("storage: s3://runs/line", StorageSpec(uri="s3://runs/line")),
        ("storage: /mnt/runs", StorageSpec(uri="/mnt/runs")),
        (
            "storage: {uri: s3://runs, endpoint: http://127.0.0.1:9000}",
            StorageSpec(uri="s3://runs", endpoint="http://127.0.0.1:9000"),
        ),
    ],
)
def test_each_way_to_say_it_is_understood(load, text, meant):
    assert load(RECIPE + text).storage == meant


@pytest.mark.parametrize(
    ("uri", "bucket", "folder"),
    [
        ("s3://runs/a/line/", "runs/a/line", None),
        ("s3://runs", "runs", None),
        ("file:///mnt/the%20runs", None, "/mnt/the runs"),
        ("../runs", None, "../runs"),
    ],
)
def test_what_an_address_names(uri, bucket, folder):
    spec = StorageSpec(uri=uri)
    assert spec.bucket == bucket
    assert bucket is not None or spec.folder == folder


def test_it_can_be_switched_off_from_the_command_line(load):
    assert load(RECIPE + "storage: s3://runs", storage="off").storage is None


def test_it_changes_no_digest(load):
    assert load(RECIPE + "storage: s3://runs").digest() == load(RECIPE).digest()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("storage: gs://runs", "gs:// is no storage; it is s3://BUCKET/PREFIX, file:///FOLDER, or a folder's path"),
        ("storage: s3:///line", "names no bucket"),
        ("storage: s3://me:secret@runs", "keys do not belong here; AWS_ACCESS_KEY_ID"),
        ("storage: s3://runs?endpoint_override=x", "a server's address is `endpoint`"),
        ("storage: file://mnt/runs", "file:///FOLDER, with three slashes"),
        ("storage: {uri: s3://runs, endpoint: 127.0.0.1:9000}", "no server's address, such as http://127.0.0.1:9000"),
        ("storage: {uri: s3://runs, endpoint: 'https://me:secret@s3.example'}", "keys do not belong here"),
        ("storage: {uri: /mnt/runs, endpoint: 'http://127.0.0.1:9000'}", "endpoint has no effect with a folder"),
        ("storage: {url: s3://runs}", "unknown key"),
        ("storage: true", "storage"),
    ],
)
def test_what_is_meant_by_nothing_is_a_mistake_with_its_line(told, text, why):
    said = told(RECIPE + text)
    assert said.startswith("recipe.yaml:3: storage") and why in said
