"""Which models transformers serves, and what they are said to do, by files alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from model_files import MakeAdapter, MakeModel, write
from safetensors.numpy import load_file, save_file

from fettle.artifact import MANIFEST, digest_folder
from fettle.engine.env import EngineOptions
from fettle.errors import UserError
from fettle.serving.deploy import app
from fettle.serving.heads.served import ServedHead, resolve_head
from fettle.serving.publish import publish
from fettle.serving.resolve import resolve

BERT = {"model_type": "bert", "architectures": ["BertForMaskedLM"]}
T5 = {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": True}
T5_POSITIONS = {"relative_attention_num_buckets": 32, "max_position_embeddings": None, "n_positions": 512}
CLASSIFIER = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "no", "1": "yes", "2": "maybe"}}
REWARD = {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "LABEL_0"}}


def head(folder: Path, *, told: dict[str, Any] | None = None, **more: Any) -> ServedHead:
    served = resolve_head(folder, EngineOptions(**told or {}), **more)
    assert served is not None
    return served


def as_artifact(folder: Path, **told: Any) -> None:
    fields = {"kind": "model", "name": folder.name, "fingerprint": "f", "parents": [], "licences": []}
    write(folder / MANIFEST, fields | {"digest": digest_folder(folder)} | told)


@pytest.mark.parametrize(
    ("config", "task", "route"),
    [
        (CLASSIFIER, "classify", "/classify"),
        (REWARD, "reward", "/score"),
        (BERT, "embed", "/v1/embeddings"),
        (BERT | {"architectures": ["BertModel"]}, "embed", "/v1/embeddings"),
        (T5, "write", "/v1/completions"),
    ],
)
def test_a_folders_task_is_told_by_its_architecture(
    make_model: MakeModel, config: dict[str, Any], task: str, route: str
) -> None:
    served = head(make_model("it", **config))

    path, body = served.example
    assert (served.task, served.names, path, body["model"]) == (task, ("it",), route, "it")


def test_a_causal_language_model_is_vllms(make_model: MakeModel) -> None:
    assert resolve_head(make_model(), EngineOptions()) is None


def test_a_classifiers_labels_are_those_of_its_configuration(make_model: MakeModel) -> None:
    served = head(make_model(**CLASSIFIER))

    assert (served.labels, served.rows) == (("no", "yes", "maybe"), 3)


@pytest.mark.parametrize(("kind", "task"), [("classifier", "classify"), ("reward", "reward")])
def test_an_artifacts_task_is_its_kind(make_model: MakeModel, kind: str, task: str) -> None:
    folder = make_model("0001", **(CLASSIFIER if kind == "classifier" else REWARD))
    as_artifact(folder, kind=kind, name="taste")

    assert (head(folder).task, head(folder).names) == (task, ("taste",))


def test_an_adapters_head_tells_its_rows(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    base, adapter = make_model(), make_adapter("intents", task_type="SEQ_CLS")
    file = adapter / "adapter_model.safetensors"
    save_file(load_file(file) | {"base_model.model.score.weight": np.zeros((4, 64), np.float32)}, file)

    served = head(adapter)

    assert (served.task, served.rows, served.labels[3], served.parent) == ("classify", 4, "LABEL_3", "base")
    assert (served.base, served.adapter, served.folder) == (base, adapter, base)  # which has the tokenizer


def test_an_adapter_without_its_head_is_refused(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model()

    with pytest.raises(UserError, match="an adapter for classification without its head"):
        head(make_adapter(task_type="SEQ_CLS"))


def test_a_changed_base_is_refused(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    base, adapter = make_model(**T5), make_adapter()
    as_artifact(adapter, kind="adapter", base={"path": str(base), "digest": "sha256:other"})

    with pytest.raises(UserError, match="is not the one it was trained on"):
        head(adapter)


@pytest.mark.parametrize(
    ("config", "told", "longest"),
    [
        (BERT, {}, 128),
        (BERT, {"max_model_len": 100}, 100),
        (T5 | T5_POSITIONS, {}, 2048),
        (T5 | T5_POSITIONS, {"max_model_len": 9000}, 9000),
    ],
)
def test_the_longest_input(make_model: MakeModel, config: dict[str, Any], told: dict[str, Any], longest: int) -> None:
    assert head(make_model(**config), told=told).max_model_len == longest


def test_a_tokenizer_may_know_of_fewer_tokens_than_the_positions_say(make_model: MakeModel) -> None:
    folder = make_model(**BERT)
    write(folder / "tokenizer_config.json", {"model_max_length": 126})

    assert head(folder).max_model_len == 126


def test_more_than_the_positions_are_refused(make_model: MakeModel) -> None:
    with pytest.raises(UserError, match="129 is more than the model's 128 positions"):
        head(make_model(**BERT), told={"max_model_len": 129})


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForQuestionAnswering", "T5EncoderModel"])
def test_other_heads_are_refused(make_model: MakeModel, name: str) -> None:
    with pytest.raises(UserError, match=f"a {name}: its head is not served"):
        head(make_model(architectures=[name]))


@pytest.mark.parametrize("mode", ["pooling_mode_max_tokens", "pooling_mode_weightedmean_tokens"])
def test_other_poolings_are_refused(make_model: MakeModel, mode: str) -> None:
    folder = make_model(**BERT)
    (folder / "1_Pooling").mkdir()
    write(folder / "1_Pooling" / "config.json", {mode: True, "word_embedding_dimension": 64})

    with pytest.raises(UserError, match=f"pooling by {mode}"):
        head(folder)


def test_further_layers_of_sentence_transformers_are_refused(make_model: MakeModel) -> None:
    folder = make_model(**BERT)
    types = [f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Dense")]
    write(folder / "modules.json", [{"idx": place, "type": name} for place, name in enumerate(types)])

    with pytest.raises(UserError, match="a layer of sentence-transformers that is not served: Dense"):
        head(folder)


def test_learned_tokens_give_no_embeddings(make_model: MakeModel, make_adapter: MakeAdapter) -> None:
    make_model(**BERT)

    with pytest.raises(UserError, match="learned tokens before a text"):
        head(make_adapter(peft_type="PROMPT_TUNING"))


@pytest.mark.parametrize("given", [{"adapters": {"x": "y"}}, {"registry": "r"}, {"tool_parser": "hermes"}])
@pytest.mark.parametrize("config", [CLASSIFIER, T5])
def test_what_only_causal_models_take_is_refused(
    make_model: MakeModel, config: dict[str, Any], given: dict[str, Any]
) -> None:
    with pytest.raises(UserError, match="only causal language models"):
        head(make_model(**config), **given)


@pytest.mark.parametrize("config", [CLASSIFIER, BERT, T5])
def test_adapters_over_them_are_not_published(
    make_model: MakeModel, make_adapter: MakeAdapter, config: dict[str, Any], tmp_path: Path
) -> None:
    make_model(**config)

    with pytest.raises(UserError, match="only causal language models take adapters while they are served") as caught:
        publish(make_adapter("voice"), registry=tmp_path / "registry")
    assert "fettle serve" in str(caught.value) and not (tmp_path / "registry").exists()


def test_beside_a_causal_model_they_are_refused(make_model: MakeModel) -> None:
    folder = make_model("taste", **REWARD)
    as_artifact(folder, kind="reward")

    with pytest.raises(UserError, match="a reward model generates no text") as caught:
        resolve("tiny", adapters={"taste": folder})
    assert f"fettle serve {folder}" in str(caught.value)


def test_code_of_its_own_and_a_missing_tokenizer_are_refused(make_model: MakeModel) -> None:
    folder = make_model(**BERT)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="no tokenizer beside the weights"):
        head(folder)

    write(folder / "tokenizer_config.json", json.loads('{"auto_map": {}}'))
    with pytest.raises(UserError, match="wants to run code of its own"):
        head(folder)


def test_serve_deploy_builds_it_with_the_same_names(make_model: MakeModel) -> None:
    ingress = app({"model": str(make_model(**CLASSIFIER))})._bound_deployment  # type: ignore[attr-defined]

    model = ingress.init_args[0][0][0]._bound_deployment
    assert (model.name, model.func_or_class.__name__) == ("model", "HeadReplica")
