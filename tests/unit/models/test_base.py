"""Where a base lies, and which folders are refused as one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from fettle.artifact import new_artifact
from fettle.errors import UserError
from fettle.models.base import (
    BUNDLED,
    base_and_adapter,
    digest_of,
    dtype_of,
    linear_layers,
    positions_of,
    resolve_base,
)
from fettle.models.precision import has_fast_bf16, instruction_set, resolve_precision
from fettle.recipe.cluster import ClusterSpec

WHERE = {"file": "recipe.yaml", "line": 2, "field": "base"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that looks like a model's."""
    folder = tmp_path / "models" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text('{"max_position_embeddings": 512, "dtype": "bfloat16"}')
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as told:
        resolve_base(folder, **WHERE)
    assert str(told.value).startswith("recipe.yaml:2: base: ")
    return str(told.value).removeprefix("recipe.yaml:2: base: ")


def test_the_bundled_name_is_a_folder_of_ours():
    assert resolve_base("tiny") == BUNDLED["tiny"] and (BUNDLED["tiny"] / "config.json").is_file()


def test_what_is_trained_over_the_bundled_models_frozen_embeddings_can_tell_all_tokens_apart():
    rows = load_file(BUNDLED["tiny"] / "model.safetensors")["model.embed_tokens.weight"].float()
    cosines = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
    assert (cosines - torch.eye(len(rows))).max() < 0.99


def test_a_folder_is_relative_to_the_recipe(model):
    assert resolve_base("models/mine", model.parents[1]) == resolve_base(model) == model


def test_a_home_folder_is_found(model, monkeypatch):
    monkeypatch.setenv("HOME", str(model.parent))
    assert resolve_base("~/mine") == model


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "nowhere", "a/b/c"])
def test_what_is_no_folder_and_no_hub_id_is_told_without_asking_the_hub(tmp_path, name):
    with pytest.raises(UserError, match="^base: no model") as told:
        resolve_base(name, tmp_path, field="base")
    assert "expected: tiny, a folder, or a hub id like org/model" in str(told.value)


def test_a_hub_that_does_not_answer_is_told_in_one_line(tmp_path, monkeypatch):
    def fetch(name: str, allow_patterns: list[str]) -> str:
        raise ConnectionError("nobody there\nat all")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(UserError, match=r"'org/model' is no folder here .* from the hub \(nobody there\)\n") as told:
        resolve_base("org/model", tmp_path, **WHERE)
    assert str(told.value).endswith("fix: check the name, the network, or download it and give the folder")


def test_a_hub_error_without_a_word_is_told_too(tmp_path, monkeypatch):
    def fetch(name: str, allow_patterns: list[str]) -> str:
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(UserError, match=r"from the hub \(TimeoutError"):
        resolve_base("org/model", tmp_path)


def test_only_files_that_run_no_code_are_fetched_from_the_hub(model, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(
        "huggingface_hub.snapshot_download", lambda name, allow_patterns: (asked.extend(allow_patterns), model)[1]
    )
    assert resolve_base("org/model") == model
    assert not {pattern.rpartition(".")[2] for pattern in asked} & {"py", "bin", "pt", "pth", "pkl"}


def test_a_folder_without_a_config_is_refused(model):
    (model / "config.json").unlink()
    assert refused(model).startswith(f"no model in {model}: it has no config.json")


def test_a_folder_without_weights_is_refused(model):
    (model / "model.safetensors").unlink()
    assert refused(model) == f"{model} has no *.safetensors"


def test_weights_that_can_run_code_are_refused(model):
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    assert "only pytorch_model.bin, which can run code when loaded\n  fix: convert" in refused(model)


def test_a_model_that_wants_to_run_code_of_its_own_is_refused(model):
    (model / "config.json").write_text(json.dumps({"auto_map": {"AutoModel": "modeling.Mine"}}))
    assert refused(model).startswith(f"{model} wants to run code of its own (auto_map in config.json)")


@pytest.mark.parametrize(
    ("content", "got"), [("{", "is not valid JSON (Expecting"), ("", "is not valid JSON"), ("[]", "is no JSON object")]
)
def test_a_broken_config_is_refused(model, content, got):
    (model / "config.json").write_text(content)
    assert refused(model).startswith(f"{model / 'config.json'} {got}")


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 512}, 512),
        ({"n_positions": 1024}, 1024),
        ({"max_seq_len": 64}, 64),
        ({"max_position_embeddings": None}, 2048),
        ({}, 2048),
    ],
)
def test_positions_are_what_the_config_says_however_it_is_called(model, config, positions):
    (model / "config.json").write_text(json.dumps(config))
    assert positions_of(model) == positions


@pytest.mark.parametrize(
    ("config", "dtype"),
    [
        ({"dtype": "bfloat16"}, torch.bfloat16),
        ({"torch_dtype": "float16"}, torch.float16),
        ({"torch_dtype": "torch.float32"}, torch.float32),
        ({}, torch.float32),
    ],
)
def test_weights_are_written_back_in_the_type_they_lie_in(model, config, dtype):
    (model / "config.json").write_text(json.dumps(config))
    assert dtype_of(model) == dtype


def test_a_models_digest_is_of_its_files_and_an_artifacts_its_own(model, tmp_path):
    before = digest_of(model)
    with new_artifact(tmp_path / "a", kind="model", name="a", fingerprint="f") as folder:
        for file in model.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    assert digest_of(tmp_path / "a") == before
    (model / "config.json").write_text("{}")
    (tmp_path / "a" / "config.json").write_text("{}")
    assert digest_of(model) != before == digest_of(tmp_path / "a")


def test_an_adapter_artifact_leads_to_its_base_and_anything_else_to_itself(model, tmp_path):
    told = {"base": {"path": str(model), "digest": "sha256:0"}}
    with new_artifact(tmp_path / "a", kind="adapter", name="a", fingerprint="f", **told):
        pass
    base, adapter = base_and_adapter(tmp_path / "a")
    assert (base, adapter.path) == (model, tmp_path / "a")
    assert base_and_adapter(model) == (model, None)


@pytest.mark.parametrize(
    ("precision", "gpus", "fast", "resolved"),
    [
        (None, 0, False, "fp32"),
        (None, 0, True, "bf16"),
        (None, 1, False, "bf16"),
        ("fp32", 1, True, "fp32"),
        ("bf16", 0, False, "bf16"),
        ("fp16", 1, True, "fp16"),
    ],
)
def test_the_default_is_bf16_where_the_hardware_has_it(monkeypatch, precision, gpus, fast, resolved):
    monkeypatch.setattr("fettle.models.precision.has_fast_bf16", lambda: fast)
    assert resolve_precision(ClusterSpec(precision=precision, gpus_per_worker=gpus)) == resolved


@pytest.mark.parametrize(("avx", "amx"), [(True, False), (False, True), (False, False)])
def test_either_kind_of_hardware_multiplies_bf16(monkeypatch, avx, amx):
    cpu = SimpleNamespace(_is_avx512_bf16_supported=lambda: avx, _is_amx_tile_supported=lambda: amx)
    monkeypatch.setattr(torch, "cpu", cpu)
    assert has_fast_bf16() is (avx or amx)


def test_the_instruction_set_names_machine_and_vectors():
    machine, _, vectors = instruction_set().partition("/")
    assert machine and vectors


def test_linear_layers_are_named_without_loading_weights() -> None:
    assert {"q_proj", "down_proj"} <= set(linear_layers(BUNDLED["tiny"]))


def test_the_first_positions_of_roberta_are_the_paddings(tmp_path):
    told = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    (tmp_path / "config.json").write_text(json.dumps(told))
    assert positions_of(tmp_path) == 512
