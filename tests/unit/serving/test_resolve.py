"""From what the user names to what is served, by files alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from model_files import MakeAdapter, MakeModel, write

from fettle.artifact import MANIFEST, digest_folder
from fettle.engine.env import EngineOptions
from fettle.errors import UserError
from fettle.serving.resolve import fitted, resolve


def as_artifact(folder: Path, **told: Any) -> str:
    digest = digest_folder(folder)
    fields = {"kind": "model", "digest": digest, "name": folder.name, "fingerprint": "f", "parents": [], "licences": []}
    write(folder / MANIFEST, fields | told)
    return digest


def test_model_is_served_under_its_folders_name(make_model: MakeModel) -> None:
    served = resolve(make_model("my model (v2)"))

    assert (served.names, served.primary) == (("my-model-v2-",), "my-model-v2-")


def test_artifact_is_served_under_its_own_name(make_model: MakeModel) -> None:
    folder = make_model("0001")
    as_artifact(folder, name="northline")

    assert resolve(folder).names == ("northline",)


def test_bundled_model_is_served_by_name() -> None:
    assert resolve("tiny").names == ("tiny",)


def test_adapter_is_served_beside_its_base(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    base, adapter = make_model(), make_adapter()

    served = resolve(adapter)

    assert (served.names, served.primary, served.folder) == (("base", "support"), "support", base)


def test_given_name_is_that_of_what_was_asked_for(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model()

    assert resolve(make_adapter(), name="helper").names == ("base", "helper")


def test_further_adapters_follow_the_first(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model()

    served = resolve(make_adapter("one"), adapters={"second": make_adapter("two")})

    assert served.names == ("base", "one", "second")


def test_base_that_shares_its_adapters_name_gets_another(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    base = make_model("northline")
    adapter = make_adapter("northline-adapter", base_model_name_or_path=str(base))

    assert resolve(adapter, name="northline").names == ("northline-base", "northline")


def test_two_models_of_one_name_are_refused(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    with pytest.raises(UserError, match="'base' names two models"):
        resolve(make_model(), adapters={"base": make_adapter()})


def test_base_is_found_where_the_artifact_says(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    base, adapter = make_model(), make_adapter(base_model_name_or_path="/somewhere/else")
    as_artifact(adapter, kind="adapter", base={"path": str(base), "digest": digest_folder(base)})

    assert resolve(adapter).folder == base


def test_changed_base_is_refused(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    base, adapter = make_model(), make_adapter()
    as_artifact(adapter, kind="adapter", base={"path": str(base), "digest": digest_folder(base)})
    write(base / "generation_config.json", {"temperature": 2.0})

    with pytest.raises(UserError, match="is not the one it was trained on"):
        resolve(adapter)


def test_base_artifact_is_compared_by_its_recorded_digest(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    base, adapter = make_model(), make_adapter()
    as_artifact(adapter, kind="adapter", base={"path": str(base), "digest": "sha256:other"})
    as_artifact(base)

    with pytest.raises(UserError, match="digests differ"):
        resolve(adapter)


def test_missing_base_is_told_with_the_way_round(make_adapter: MakeAdapter) -> None:
    with pytest.raises(UserError, match="its base cannot be had") as caught:
        resolve(make_adapter())

    assert "fettle serve BASE --adapter NAME=FOLDER" in str(caught.value)


def test_adapter_that_names_no_base_is_refused(make_adapter: MakeAdapter) -> None:
    with pytest.raises(UserError, match="does not say which base"):
        resolve(make_adapter(base_model_name_or_path=None))


def test_adapter_over_an_adapter_is_refused(make_adapter: MakeAdapter) -> None:
    first = make_adapter("first")

    with pytest.raises(UserError, match="is itself an adapter"):
        resolve(make_adapter(base_model_name_or_path=str(first)))


def test_model_given_as_adapter_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match=r"not an adapter: it has no adapter_config\.json"):
        resolve("tiny", adapters={"x": make_model()})


def test_adapter_with_another_vocabulary_is_refused(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model()
    adapter = make_adapter()
    write(
        adapter / "tokenizer.json", {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "c", "id": 2}]}
    )

    with pytest.raises(UserError, match="its tokenizer is not its base's"):
        resolve(adapter)


def test_only_what_an_adapter_wants_otherwise_than_its_base_is_filled_in(
    make_model: MakeModel, make_adapter: MakeAdapter
) -> None:
    base, adapter = make_model(), make_adapter()
    write(base / "generation_config.json", {"eos_token_id": 0, "temperature": 0.7, "top_p": 0.9})
    write(adapter / "generation_config.json", {"eos_token_id": [0, 1], "temperature": 0.7, "top_p": 0.5})
    (adapter / "chat_template.jinja").write_text("{{ messages }}")

    served = resolve(adapter)

    assert served.chats
    assert served.defaults == {"support": {"top_p": 0.5, "stop_token_ids": [1], "chat_template": "{{ messages }}"}}


def test_same_template_in_another_file_is_no_difference(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    base, adapter = make_model(), make_adapter()
    (base / "chat_template.jinja").write_text("{{ messages }}\n")
    write(adapter / "tokenizer_config.json", {"chat_template": "{{ messages }}"})

    assert resolve(adapter).defaults == {}


def test_options_get_room_for_the_adapters(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model()
    adapters = {f"a{number}": make_adapter(f"a{number}", r=number + 4) for number in range(3)}
    served = resolve("tiny", adapters={})
    served = replace(served, adapters=resolve(make_adapter("own"), adapters=adapters).adapters)

    options = fitted(EngineOptions(), served)

    assert (options.max_loras, options.max_lora_rank, options.max_adapters) == (4, 8, 8)


def test_length_above_the_models_positions_is_refused() -> None:
    positions = json.loads((resolve("tiny").folder / "config.json").read_text())["max_position_embeddings"]

    with pytest.raises(UserError, match=f"{positions + 1} is more than the model's {positions} positions"):
        fitted(EngineOptions(max_model_len=positions + 1), resolve("tiny"))


@pytest.mark.parametrize("name", ["", "../x", "a b", "ä", "x" * 200])
def test_name_that_no_url_or_log_should_carry_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="is no name for a model"):
        resolve("tiny", name=name)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model"):
        resolve(tmp_path / "nowhere")


@pytest.mark.parametrize(("kind", "what"), [("reward", "reward model"), ("classifier", "classifier")])
def test_an_artifact_with_another_head_is_refused(make_model: MakeModel, kind: str, what: str) -> None:
    folder = make_model("taste")
    as_artifact(folder, kind=kind)

    with pytest.raises(UserError, match=f"a {what} generates no text"):
        resolve(folder)


def test_an_adapter_with_another_head_is_refused_beside_a_base(
    make_model: MakeModel, make_adapter: MakeAdapter
) -> None:
    base, adapter = make_model(), make_adapter("taste")
    config = json.loads((adapter / "adapter_config.json").read_text())
    write(adapter / "adapter_config.json", config | {"task_type": "SEQ_CLS"})

    with pytest.raises(UserError, match="generates no text"):
        resolve(base, adapters={"taste": adapter})


def test_an_adapter_over_a_family_without_lora_in_vllm_is_refused(
    make_model: MakeModel, make_adapter: MakeAdapter
) -> None:
    make_model(architectures=["BloomForCausalLM"], model_type="bloom")
    adapter = make_adapter()

    with pytest.raises(UserError, match=r"applies no adapters to models of type bloom \(BloomForCausalLM\)") as caught:
        resolve(adapter)
    assert (caught.value.file, caught.value.fix) == (adapter, f"fettle merge {adapter} --out FOLDER, and serve that")


def test_a_model_of_a_family_without_lora_in_vllm_is_served(make_model: MakeModel) -> None:
    assert resolve(make_model(architectures=["BloomForCausalLM"], model_type="bloom")).names == ("base",)


def test_gpt2s_positions_are_known_by_its_own_name_for_them(make_model: MakeModel) -> None:
    served = resolve(make_model(n_positions=64, max_position_embeddings=None))

    with pytest.raises(UserError, match="65 is more than the model's 64 positions"):
        fitted(EngineOptions(max_model_len=65), served)
