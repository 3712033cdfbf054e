"""`fettle export`: a folder that transformers and PEFT load without fettle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from bundled_adapter import write_bundled_adapter
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from fettle.artifact import MANIFEST, new_artifact, read_artifact
from fettle.cli.main import app
from fettle.errors import UserError
from fettle.models.base import BUNDLED
from fettle.registry.folder import FolderRegistry


@pytest.fixture
def said(tmp_path: Path) -> Callable[..., str]:
    """`said(artifact, folder)`: what `fettle export` prints."""

    def run(*words: object) -> str:
        told = ["export", *map(str, words), "--in", str(tmp_path), "--registry", str(tmp_path / "registry")]
        done = CliRunner().invoke(app, told)
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output

    return run


@pytest.fixture
def merged(tmp_path: Path) -> Path:
    """The bundled model as an artifact of full weights, under a licence."""
    with new_artifact(tmp_path / "merged", kind="model", name="merged", fingerprint="f", licences=("MIT",)) as folder:
        for file in BUNDLED["tiny"].iterdir():
            if file.name != MANIFEST:
                shutil.copy(file, folder)
    return tmp_path / "merged"


def test_full_weights_load_in_transformers_and_the_card_says_what_they_are(
    said: Callable[..., str], merged: Path, tmp_path: Path
) -> None:
    assert "exported" in said(merged, tmp_path / "plain")

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "plain", dtype=torch.float32)
    ids = AutoTokenizer.from_pretrained(tmp_path / "plain")("Hello", return_tensors="pt").input_ids
    wanted = AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"], dtype=torch.float32)(ids).logits
    assert torch.equal(model(ids).logits, wanted)

    card = (tmp_path / "plain" / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head == {"library_name": "transformers", "license": "mit"}
    assert read_artifact(merged).digest in card


def test_a_published_adapter_loads_in_peft(said: Callable[..., str], tmp_path: Path) -> None:
    write_bundled_adapter(tmp_path / "adapter", "support")
    FolderRegistry(tmp_path / "registry").publish("support", tmp_path / "adapter", alias="production")

    said("support@production", tmp_path / "out" / "plain")
    base = AutoModelForCausalLM.from_pretrained(BUNDLED["tiny"], dtype=torch.float32)
    assert PeftModel.from_pretrained(base, tmp_path / "out" / "plain").active_adapter == "default"
    assert "# support:1" in (tmp_path / "out" / "plain" / "README.md").read_text()


def test_a_mistake_is_one_clear_error_and_leaves_nothing(
    said: Callable[..., str], merged: Path, tmp_path: Path
) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="is there already"):
        said(merged, tmp_path / "there")
    with pytest.raises(UserError, match="nothing called 'support' is published"):
        said("support:3", tmp_path / "plain")
    with pytest.raises(UserError, match="was not made by fettle"):
        said("tiny", tmp_path / "plain")
    config = json.loads((merged / "config.json").read_text())
    (merged / "config.json").write_text(json.dumps(config | {"vocab_size": 1}))
    with pytest.raises(UserError, match="no longer match the digest"):
        said(merged, tmp_path / "plain")
    assert not (tmp_path / "plain").exists()
