"""A reward model in this process: it scores answers as transformers does what was rendered as in its training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_encoders import CONFIGS, word_pieces
from transformers import AutoModelForSequenceClassification

from fettle.artifact import new_artifact
from fettle.data.coder import Coder
from fettle.data.record import Answer, Message, Prompt, Record
from fettle.errors import UserError
from fettle.models import adapters
from fettle.models.base import BUNDLED, digest_of, load_tokenizer
from fettle.models.heads import load_headed
from fettle.recipe.adapter import AdapterSpec
from fettle.rl.rewards.model import RewardModel

QUESTIONS = ("Why?", "What is the capital of France, and how many people live there?")
ANSWERS = ("Because.", "Paris; two million people, and ten with all around it.", "")


def record(question: str) -> Record:
    return Record(Path("p.jsonl"), 1, prompt=Prompt((Message("user", question),), (question,)))


def rendered(question: str, answer: str) -> list[int]:
    """The token ids of a pair's better answer, as a reward stage learns from it."""
    answers = (Answer((Message("assistant", answer, bears_loss=True),)), Answer((Message("assistant", "x"),)))
    pair = Record(Path("p.jsonl"), 1, prompt=record(question).prompt, answers=answers)
    (_, better), _ = pair.parts()
    ((ids, _),) = Coder(load_tokenizer(BUNDLED["tiny"])).code([better])
    return [int(one) for one in ids]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled model with a head of one row."""
    folder = tmp_path_factory.mktemp("reward")
    model = load_headed(BUNDLED["tiny"], 1, torch.float32, seed=3)
    model.config.get_text_config().pad_token_id = load_tokenizer(BUNDLED["tiny"]).pad_token_id
    model.save_pretrained(folder)
    load_tokenizer(BUNDLED["tiny"]).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def rollouts() -> list[tuple[int, str]]:
    """Prompt and answer of each, prompts mixed."""
    return [(number % 2, answer) for number, answer in enumerate((*ANSWERS, *ANSWERS))]


@pytest.mark.parametrize("tokens_per_batch", [8192, 16])
def test_an_answers_reward_is_what_transformers_gives_its_rendering(
    folder, rollout, rollouts, tokens_per_batch
) -> None:
    plain = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        expected = [plain(torch.tensor([rendered(QUESTIONS[prompt], text)])).logits.item() for prompt, text in rollouts]

    model = RewardModel(folder, tokens_per_batch=tokens_per_batch)
    found = model.score([rollout(prompt, text=text) for prompt, text in rollouts], [record(one) for one in QUESTIONS])

    assert found == pytest.approx(expected, abs=1e-5)
    assert len({round(one, 3) for one in found}) == len(found)


def test_an_adapters_artifact_scores_with_its_adapter_and_its_head(folder, tmp_path, rollout) -> None:
    torch.manual_seed(0)
    model = adapters.attach(load_headed(folder, 1, torch.float32, 0), AdapterSpec(kind="lora", r=4), folder, 0)
    for name, weight in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(weight, std=0.2)
    base: Any = {"path": str(folder), "digest": digest_of(folder)}
    told: Any = {"name": "taste", "fingerprint": "f" * 64, "base": base}
    with new_artifact(tmp_path / "taste", kind="reward", **told) as partial:
        model.save_pretrained(partial)
        load_tokenizer(BUNDLED["tiny"]).save_pretrained(partial)
    ids = torch.tensor([rendered(QUESTIONS[0], ANSWERS[0])])
    with torch.no_grad():
        expected = model.eval()(input_ids=ids, position_ids=torch.arange(ids.shape[1])[None])[0, -1, 0].item()

    asked = [rollout(0, text=ANSWERS[0])], [record(QUESTIONS[0])]
    found, without = (RewardModel(one).score(*asked)[0] for one in (tmp_path / "taste", folder))

    assert found == pytest.approx(expected, abs=1e-5)
    assert abs(found - without) > 1e-2


def test_an_answer_beyond_the_models_positions_is_cut(folder, rollout) -> None:
    long = "word " * 3000
    found = RewardModel(folder).score([rollout(0, text=long), rollout(0, text=long + "and more")], [record("Why?")])
    assert found[0] == found[1]


def test_an_encoder_scores_a_text_in_its_frame(tmp_path, rollout) -> None:
    tokenizer = word_pieces(["Why?", "Because it is.", "No."])
    told = CONFIGS["bert"].to_dict() | {"vocab_size": len(tokenizer), "num_labels": 1}
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(type(CONFIGS["bert"])(**told)).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["Because it is.", "No."]
    with torch.no_grad():
        expected = [model(**tokenizer("Why?" + text, return_tensors="pt")).logits.item() for text in texts]

    plain = Record(Path("p.jsonl"), 1, prompt=Prompt((Message("user", "Why?"),), ("Why?",)))
    found = RewardModel(tmp_path).score([rollout(0, text=text) for text in texts], [plain])

    assert found == pytest.approx(expected, abs=1e-5)


def test_no_answers_have_no_scores(folder) -> None:
    assert RewardModel(folder).score([], []) == []


@pytest.mark.parametrize("kind", ["model", "adapter", "classifier"])
def test_another_kind_of_artifact_is_refused(tmp_path, kind) -> None:
    with new_artifact(tmp_path / "task", kind=kind, name="task", fingerprint="f" * 64):
        pass
    with pytest.raises(UserError, match=f"this is of kind {kind}, which scores no answers"):
        RewardModel(tmp_path / "task")
