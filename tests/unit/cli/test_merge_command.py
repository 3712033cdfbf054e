"""`fettle merge`: one clear error for each mistake, before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fettle.artifact import new_artifact
from fettle.cli.main import app
from fettle.errors import UserError
from fettle.models.base import BUNDLED, digest_of

MakeAdapter = Callable[..., Path]


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """`make_adapter(name, base=tiny)`: an adapter as fettle makes it, but for its weights."""

    def make(name: str, base: Path = BUNDLED["tiny"]) -> Path:
        told = {"path": str(base), "digest": digest_of(base)}
        with new_artifact(tmp_path / name, kind="adapter", name=name, fingerprint="f", base=told) as folder:
            (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 4}))
            (folder / "adapter_model.safetensors").write_bytes(b"")
        return tmp_path / name

    return make


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A base of its own."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "small" / "model.safetensors").write_bytes(b"")
    return tmp_path / "small"


def refused(*arguments: object) -> str:
    told = CliRunner().invoke(app, ["merge", *(str(one) for one in arguments)])
    assert isinstance(told.exception, UserError) and told.exception.exit_code == 2
    return str(told.exception)


def test_a_folder_that_is_no_adapter_is_told(tmp_path, small):
    assert refused(small, "--out", tmp_path / "m") == (
        f"{small}: there is nothing to merge: what this begins from is no adapter\n"
        "  expected: an adapter's folder, or a stage that trains an adapter"
    )


def test_a_folder_that_is_not_there_is_told(tmp_path):
    assert refused(tmp_path / "no", "--out", tmp_path / "m").startswith(f"{tmp_path / 'no'}: no such folder")


def test_an_out_folder_that_is_there_is_left_alone(tmp_path, make_adapter):
    assert refused(make_adapter("one"), "--out", tmp_path) == (
        f"--out: {tmp_path} is there already\n  fix: name another folder"
    )


def test_a_base_that_is_gone_is_told(tmp_path, make_adapter, small):
    one = make_adapter("one", small)
    small.rename(tmp_path / "moved")
    assert f"the base of this adapter, {small}, is not there" in refused(one, "--out", tmp_path / "m")


def test_adapters_of_two_bases_are_told_with_both(tmp_path, make_adapter, small):
    one, two = make_adapter("one"), make_adapter("two", small)
    assert refused(one, two, "--out", tmp_path / "m").startswith(
        f"{two}: adapters of two bases cannot be combined: {BUNDLED['tiny']} and {small}"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "ties"], "method has no effect with one adapter"),
        (["--density", "0.5"], "density has no effect with one adapter"),
        (["--weight", "0.5"], "--weight: it has no effect with one adapter"),
        (["--seed", "1"], "--seed: it has an effect with dare_linear and dare_ties only"),
    ],
)
def test_a_setting_without_effect_on_one_adapter_is_refused(tmp_path, make_adapter, options, message):
    assert refused(make_adapter("one"), *options, "--out", tmp_path / "m").startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "tie"], "--method: input should be 'linear', 'ties', 'dare_linear' or 'dare_ties'"),
        (["--density", "0.5"], "density has no effect with method: linear"),
        (["--method", "ties", "--density", "2"], "--density: input should be less than or equal to 1"),
        (
            ["--method", "dare_ties", "--density", "1"],
            "density 1 drops nothing: method: dare_ties is then method: ties",
        ),
        (["--weight", "0.5"], "--weight: 1 for 2 adapters"),
        (["--weight", "0", "--weight", "1"], "--weight: an adapter of weight 0 has no effect; remove it"),
        (["--method", "ties", "--seed", "1"], "--seed: it has an effect with dare_linear and dare_ties only"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(tmp_path, make_adapter, options, message):
    arguments = (make_adapter("one"), make_adapter("two"), *options, "--out", tmp_path / "m")
    assert refused(*arguments).startswith(message)
    assert not (tmp_path / "m").exists()
