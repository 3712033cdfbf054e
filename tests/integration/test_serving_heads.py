"""What transformers serves, through Ray Serve and HTTP: a classifier, a reward model, an encoder and a T5.

One Ray session; each model is served in a block of its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import torch
from small_encoders import write_encoder
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from fettle.artifact import new_artifact
from fettle.cluster import ray_session
from fettle.data.coder import Coder, end_ids
from fettle.data.record import Message, Prompt, Record
from fettle.evaluate.generate import answers
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.models.generate import load_speaker
from fettle.models.heads import load_headed
from fettle.models.label_rows import name_labels
from fettle.recipe.rewards import RewardSpec
from fettle.rl.rewards.model import RewardModel
from fettle.rl.rewards.service import ServiceScorer
from fettle.serving.app import Endpoint, serve
from fettle.serving.keys import KeyFile
from fettle.serving.port import free_port
from small_t5 import make_t5, northline_lines

pytestmark = pytest.mark.skipif("RAY_ADDRESS" in os.environ, reason="needs a Ray cluster of its own")

TOLERANCE = 1e-4
LABELS = ("billing", "greeting", "other")
TEXTS = ["Hello there.", "My bill is wrong, for the third time this year!", "When does the night train leave?"]

Post = Callable[[str, dict[str, Any]], requests.Response]


@pytest.fixture(scope="module", autouse=True)
def session() -> Iterator[None]:
    with ray_session(num_cpus=2):
        yield


@contextmanager
def served(folder: Path, **more: Any) -> Iterator[tuple[Endpoint, Post]]:
    with serve(folder, port=free_port(), replicas=1, **more) as endpoint:
        yield endpoint, lambda path, body: requests.post(endpoint.url + path, json=body, timeout=60)


def write_headed(folder: Path, kind: Any, labels: tuple[str, ...]) -> Path:
    """An artifact: the bundled model under a random head."""
    model: Any = load_headed(BUNDLED["tiny"], len(labels) or 1, torch.float32, seed=0)
    if labels:
        name_labels(model, labels)
    torch.nn.init.normal_(model.score.weight, std=0.5)
    with new_artifact(folder, kind=kind, name=folder.name, fingerprint="f") as partial:
        model.save_pretrained(partial)
        load_tokenizer(BUNDLED["tiny"]).save_pretrained(partial)
    return folder


def asking(text: str) -> Record:
    return Record(Path("p"), 1, prompt=Prompt((Message("user", text),), (text,)))


def test_a_classifier_answers_as_transformers_and_those_with_a_key_alone(tmp_path: Path) -> None:
    folder = write_headed(tmp_path / "intents", "classifier", LABELS)
    secret = KeyFile(tmp_path / "keys.json").create("team")
    with served(folder, keys=tmp_path / "keys.json") as (endpoint, post):
        refused = post("/classify", {"input": TEXTS})
        headers = {"Authorization": f"Bearer {secret}"}
        body = {"model": "intents", "input": TEXTS}
        answer = requests.post(f"{endpoint.url}/classify", json=body, headers=headers, timeout=60)
        ready = requests.get(f"{endpoint.url}/ready", timeout=30).status_code

    model: Any = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (refused.status_code, answer.status_code, ready) == (401, 200, 200)
    for text, told in zip(TEXTS, answer.json()["data"], strict=True):
        with torch.no_grad():
            wanted = model(torch.tensor([tokenizer(text)["input_ids"]])).logits[0].softmax(-1)
        assert np.allclose(told["probs"], wanted, atol=TOLERANCE) and told["label"] == LABELS[int(wanted.argmax())]


def test_a_reward_model_is_a_recipes_url(tmp_path: Path) -> None:
    folder = write_headed(tmp_path / "taste", "reward", ())
    record = asking("What is the capital of France?")
    rollouts: Any = [type("Rollout", (), {"prompt": 0, "text": text}) for text in TEXTS * 20]
    with served(folder) as (endpoint, post):
        found = ServiceScorer(RewardSpec(url=f"{endpoint.url}/score")).score(rollouts, [record])
        elsewhere = post("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]})

    assert np.allclose(found, RewardModel(folder).score(rollouts, [record]), atol=TOLERANCE)
    assert elsewhere.status_code == 404 and "POST /score" in elsewhere.json()["error"]["message"]


def test_an_encoder_gives_embeddings(tmp_path: Path, root: Path) -> None:
    folder = write_encoder(tmp_path / "reader", northline_lines(root))
    with served(folder) as (_, post), ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda text: post("/v1/embeddings", {"input": text}).json(), TEXTS * 8))

    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for text, told in zip(TEXTS * 8, found, strict=True):
        with torch.no_grad():
            pooled = model(torch.tensor([tokenizer(text)["input_ids"]])).last_hidden_state[0].mean(0)
        assert np.allclose(told["data"][0]["embedding"], pooled / pooled.norm(), atol=TOLERANCE)


def test_a_t5_writes_and_streams_what_fettle_eval_gets(tmp_path: Path, root: Path) -> None:
    folder = make_t5(tmp_path / "t5", northline_lines(root), is_tied=False)
    body = {"model": "t5", "prompt": TEXTS, "temperature": 0, "max_tokens": 16}
    with served(folder) as (endpoint, post):
        whole = post("/v1/completions", body).json()
        lines = post("/v1/completions", body | {"stream": True}).text.split("\n\n")
        wrong = post("/v1/completions", body | {"max_tokens": "many"})
        names = endpoint.names

    tokenizer, records = load_tokenizer(folder), [asking(text) for text in TEXTS]
    prompts = [ids for ids, _ in Coder(tokenizer, is_halved=True).code(records)]
    ends = end_ids(tokenizer)
    said = dict(answers(load_speaker(folder, None), tokenizer, prompts, end_ids=ends, max_new_tokens=16))
    texts = [choice["text"] for choice in whole["choices"]]
    assert names == ("t5",) and [text.strip() for text in texts] == [said[place].text for place in range(3)]

    *events, done = [line.removeprefix("data: ") for line in lines if line]
    choices = [choice for event in events for choice in json.loads(event)["choices"]]
    streamed = ["".join(one["text"] for one in choices if one["index"] == place) for place in range(3)]
    assert (streamed, done) == (texts, "[DONE]")
    assert (wrong.status_code, wrong.json()["error"]["param"]) == (400, "max_tokens")
