"""Classifiers and reward models behind the gate: the numbers of transformers, in the shapes of their peers."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from head_folders import LABELS, TEXTS, endpoint_of, write_classifying_encoder, write_embedder, write_headed
from in_process import error
from starlette.testclient import TestClient
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from fettle.artifact import new_artifact
from fettle.data.coder import Coder
from fettle.data.record import Answer, Message, Prompt, Record
from fettle.models import adapters
from fettle.models.base import BUNDLED, digest_of, load_tokenizer
from fettle.models.heads import load_headed
from fettle.models.label_rows import name_labels
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.rewards import RewardSpec
from fettle.rl.rewards.model import RewardModel
from fettle.rl.rewards.service import ServiceScorer

TOLERANCE = 1e-4
QUESTION = "What is the capital of France?"
ANSWERS = ("Paris.", "Rome; no, it is Paris, and two million people live there.", "")


@pytest.fixture(scope="module")
def headed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("headed")
    return {
        "classifier": write_headed(folder / "classifier"),
        "reward": write_headed(folder / "reward", ()),
        "bert": write_classifying_encoder(folder / "bert"),
        "embedder": write_embedder(folder / "embedder"),
    }


@pytest.fixture(scope="module")
def at(headed: dict[str, Path]) -> dict[str, TestClient]:
    return {name: endpoint_of(folder) for name, folder in headed.items()}


@torch.no_grad()
def logits(folder: Path, text: str | list[int]) -> torch.Tensor:
    """transformers' own, of a text or of token ids."""
    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"] if isinstance(text, str) else text
    return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("name", ["classifier", "bert"])
def test_a_texts_label_and_probabilities_are_those_of_transformers(
    at: dict[str, TestClient], headed: dict[str, Path], name: str
) -> None:
    answer = at[name].post("/classify", json={"model": name, "input": list(TEXTS)}).json()

    assert (answer["object"], answer["model"]) == ("list", name) and answer["usage"]["prompt_tokens"] > 3
    for place, (text, told) in enumerate(zip(TEXTS, answer["data"], strict=True)):
        wanted = logits(headed[name], text).softmax(-1)
        assert (told["index"], told["label"], told["num_classes"]) == (place, LABELS[int(wanted.argmax())], 3)
        assert np.allclose(told["probs"], wanted, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_other_encoders_classify_too(tmp_path: Path, kind: str) -> None:
    folder = write_classifying_encoder(tmp_path / kind, kind)

    told = endpoint_of(folder).post("/classify", json={"input": TEXTS[1]}).json()["data"]

    assert np.allclose(told[0]["probs"], logits(folder, TEXTS[1]).softmax(-1), atol=TOLERANCE)


def test_labels_that_do_not_exclude_each_other_have_probabilities_of_their_own(tmp_path: Path) -> None:
    folder = write_classifying_encoder(tmp_path / "many", problem_type="multi_label_classification")

    told = endpoint_of(folder).post("/classify", json={"input": TEXTS[0]}).json()["data"][0]

    assert np.allclose(told["probs"], logits(folder, TEXTS[0]).sigmoid(), atol=TOLERANCE)


def test_tokens_are_read_as_they_are(at: dict[str, TestClient], headed: dict[str, Path]) -> None:
    ids = load_tokenizer(headed["classifier"])(TEXTS[1])["input_ids"]

    both = [at["classifier"].post("/classify", json={"input": one}).json()["data"][0] for one in (ids, TEXTS[1])]

    assert both[0] == both[1]


def test_a_conversation_is_rendered_as_in_training(at: dict[str, TestClient], headed: dict[str, Path]) -> None:
    turns = (Message("user", "<|im_end|>Hi"), Message("assistant", "Hello!"))
    ((ids, _),) = Coder(load_tokenizer(headed["classifier"])).code([Record(Path("r"), 1, messages=turns)])
    messages = [{"role": one.role, "content": one.content} for one in turns]

    told = at["classifier"].post("/classify", json={"messages": messages}).json()["data"][0]

    assert np.allclose(told["probs"], logits(headed["classifier"], ids.tolist()).softmax(-1), atol=TOLERANCE)


def rendered(tokenizer: Any, answer: str) -> list[int]:
    """The token ids of a pair's better answer, as a reward stage learns from it."""
    answers = (Answer((Message("assistant", answer, bears_loss=True),)), Answer((Message("assistant", "x"),)))
    pair = Record(Path("p"), 1, prompt=Prompt((Message("user", QUESTION),), (QUESTION,)), answers=answers)
    (_, better), _ = pair.parts()
    ((ids, _),) = Coder(tokenizer).code([better])
    return [int(one) for one in ids]


@pytest.mark.parametrize("is_chat", [False, True])
def test_an_answers_score_is_what_transformers_gives_its_rendering(
    at: dict[str, TestClient], headed: dict[str, Path], is_chat: bool
) -> None:
    prompt: Any = [{"role": "user", "content": QUESTION}] if is_chat else QUESTION
    said: list[Any] = [[{"role": "assistant", "content": one}] if is_chat else one for one in ANSWERS]

    answer = at["reward"].post("/score", json={"prompts": [prompt] * 3, "completions": said, "columns": {}}).json()

    tokenizer = load_tokenizer(headed["reward"])
    wanted = [float(logits(headed["reward"], rendered(tokenizer, one))) for one in ANSWERS]
    assert np.allclose(answer["scores"], wanted, atol=TOLERANCE) and answer["rewards"] == answer["scores"]


def test_a_recipes_url_gets_what_the_same_model_gives_in_its_own_process(
    at: dict[str, TestClient], headed: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    record = Record(Path("p"), 1, prompt=Prompt((Message("user", QUESTION),), (QUESTION,)), columns={"level": 3})
    rollouts: Any = [type("Rollout", (), {"prompt": 0, "text": answer}) for answer in ANSWERS]
    monkeypatch.setattr("requests.post", lambda url, data, headers, timeout: at["reward"].post("/score", content=data))

    found = ServiceScorer(RewardSpec(url="http://scores:8000/score")).score(rollouts, [record])

    assert np.allclose(found, RewardModel(headed["reward"]).score(rollouts, [record]), atol=TOLERANCE)


def test_a_rendered_text_is_scored_alike_as_a_query_and_as_an_input(
    at: dict[str, TestClient], headed: dict[str, Path]
) -> None:
    tokenizer = load_tokenizer(headed["reward"])
    text = tokenizer.decode(rendered(tokenizer, ANSWERS[0]))
    messages = [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": ANSWERS[0]}]

    scored = at["reward"].post("/score", json={"query": [text], "prompts": [QUESTION], "labels": [None]}).json()
    pooled = [at["reward"].post("/pooling", json=one).json() for one in ({"input": text}, {"messages": messages})]

    assert pooled[0]["data"][0]["object"] == "pooling"
    wanted = at["reward"].post("/score", json={"prompts": [QUESTION], "completions": [ANSWERS[0]]}).json()["scores"]
    for found in (scored["rewards"], *(one["data"][0]["data"] for one in pooled)):
        assert np.allclose(found, wanted, atol=TOLERANCE)


LORA = AdapterSpec(kind="lora", r=4, alpha=8)
IA3, PREFIX = AdapterSpec(kind="ia3"), AdapterSpec(kind="prefix", tokens=4)
BOTTLENECK = AdapterSpec(kind="bottleneck", size=4)


@pytest.mark.parametrize("spec", [LORA, IA3, PREFIX, BOTTLENECK], ids=lambda spec: spec.kind)
def test_a_classifiers_adapter_over_its_base_scores_as_it_was_trained(tmp_path: Path, spec: AdapterSpec) -> None:
    base, tokenizer = BUNDLED["tiny"], load_tokenizer(BUNDLED["tiny"])
    model = load_headed(base, 3, torch.float32, seed=0)
    name_labels(model, LABELS)
    whole: Any = adapters.attach(model, spec, base, seed=0)
    for weight in (one for one in whole.parameters() if one.requires_grad):
        torch.nn.init.normal_(weight, std=0.2)
    told = {"path": str(base), "digest": digest_of(base)}
    with new_artifact(tmp_path / "a", kind="classifier", name="intents", fingerprint="f", base=told) as folder:
        whole.save_pretrained(folder)
        whole.get_base_model().config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    at = endpoint_of(tmp_path / "a")
    found = at.post("/classify", json={"model": "intents", "input": list(TEXTS)}).json()["data"]

    for text, one in zip(TEXTS, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            scores = whole.eval()(input_ids=ids, position_ids=torch.arange(ids.shape[1])[None])[0, -1]
        assert np.allclose(one["probs"], scores.softmax(-1), atol=TOLERANCE)
    assert at.get("/v1/models").json()["data"][0]["parent"] == "tiny"


@pytest.mark.parametrize(
    ("name", "path", "body", "reason"),
    [
        ("classifier", "/classify", {}, "input: nothing to read"),
        ("classifier", "/classify", {"input": []}, "input: nothing to read"),
        ("classifier", "/classify", {"input": 5}, "input: nothing to read"),
        ("classifier", "/classify", {"input": ["a", 5]}, "input.1: neither text nor token ids"),
        ("classifier", "/classify", {"input": ["a", "word " * 600]}, r"input.1: \d+ tokens; .* 512 at most"),
        ("classifier", "/classify", {"input": [1, 99999]}, "input: a token that is none"),
        ("classifier", "/classify", {"input": [-1]}, "input: a token that is none"),
        ("classifier", "/classify", {"input": ""}, "input: an empty text"),
        ("classifier", "/classify", {"input": "a", "messages": []}, "input: both"),
        ("classifier", "/classify", {"messages": "Hello"}, "messages: text, not a list of messages"),
        ("classifier", "/classify", {"messages": [{"role": "user"}]}, "messages.0.content: this key is missing"),
        ("classifier", "/classify", {"input": "a\0"}, "input: a NUL"),
        ("classifier", "/classify", {"input": ["a"] * 2049}, "2048 are taken at most"),
        ("reward", "/score", {"prompts": ["a"]}, "completions: no answers to score"),
        ("reward", "/score", {"prompts": ["a"], "completions": []}, "completions: no answers to score"),
        ("reward", "/score", {"prompts": [5], "completions": ["a"]}, "prompts.0: a number, not a list of messages"),
        ("reward", "/score", {"prompts": ["a"], "completions": [None]}, "completions.0: null, not"),
        ("reward", "/score", {"prompts": ["a"], "completions": ["b " * 600]}, r"completions.0: \d+ tokens"),
        ("embedder", "/v1/embeddings", {"input": "a", "dimensions": 8}, "dimensions: .* not made to be cut"),
        ("embedder", "/v1/embeddings", {"input": "a", "dimensions": "8"}, "dimensions: Input should be a valid"),
        ("embedder", "/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format: Input should"),
        ("embedder", "/v1/embeddings", {"messages": [{"role": "user", "content": "a"}]}, "texts, not messages"),
    ],
)
def test_what_a_request_has_wrong_is_400_with_its_field(
    at: dict[str, TestClient], name: str, path: str, body: dict[str, Any], reason: str
) -> None:
    status, message = error(at[name].post(path, json=body))

    assert status == 400
    assert re.search(reason, message), message


@pytest.mark.parametrize(
    ("name", "path", "own"),
    [
        ("classifier", "/v1/chat/completions", "classifies and writes no text: ask POST /classify"),
        ("classifier", "/score", "ask POST /classify"),
        ("reward", "/classify", "scores answers and writes no text: ask POST /score or POST /pooling"),
        ("embedder", "/v1/completions", "gives embeddings and writes no text: ask POST /v1/embeddings"),
    ],
)
def test_another_tasks_route_names_the_models_own(at: dict[str, TestClient], name: str, path: str, own: str) -> None:
    status, message = error(at[name].post(path, json={"model": name, "input": "a", "prompt": "a"}))

    assert status == 404 and own in message


def test_another_model_is_404(at: dict[str, TestClient]) -> None:
    assert error(at["reward"].post("/score", json={"model": "rewards"})) == (
        404,
        "no model 'rewards' (did you mean 'reward'?); available: reward",
    )


def test_its_card_tells_its_task(at: dict[str, TestClient]) -> None:
    cards = [client.get("/v1/models").json()["data"] for client in at.values()]

    assert [(card["id"], card["task"], card["max_model_len"]) for (card,) in cards] == [
        ("classifier", "classify", 512),
        ("reward", "reward", 512),
        ("bert", "classify", 66),
        ("embedder", "embed", 66),
    ]
