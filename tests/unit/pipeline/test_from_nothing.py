"""A base that is made from nothing, before any worker starts."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from small_house import House
from transformers import AutoModelForCausalLM

from fettle.artifact import digest_folder
from fettle.data.tokens import TokenSet
from fettle.errors import UserError
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import prepare
from fettle.pipeline.runner import run

SIZES = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
LLAMA = {"model_type": "llama", **SIZES, "max_position_embeddings": 64}
BERT = {"model_type": "bert", **SIZES, "max_position_embeddings": 64}
T5 = {"model_type": "t5", "d_model": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "d_kv": 8}
READ = {"name": "read", "kind": "pretrain", "data": "corpus.txt"}
FIRST, SECOND = "Once upon a time there was a night train from Gdansk to Trieste.", "It left at nine, and at ten again."


@pytest.fixture
def nothing(house: House) -> House:
    """A house whose base is a Llama of nothing, with a tokenizer of 304 tokens."""
    (house.folder / "corpus.txt").write_text(f"{FIRST} {SECOND}\n" * 20)
    base = {"config": LLAMA, "tokenizer": {"train": True, "vocab_size": 304}}
    return house.with_stages(READ, base=base)


def with_base(house: House, config: Any, tokenizer: Any = "train", **stage: Any) -> House:
    if tokenizer == "train":
        tokenizer = {"train": True, "vocab_size": 361 if config is T5 else 301}
    return house.with_stages(READ | stage, base={"config": config, "tokenizer": tokenizer})


def prepared(house: House) -> Any:
    return prepare(house.recipe(), house.plan(), house.out / "tokens")


def test_a_llama_of_random_weights_and_a_learned_tokenizer_lie_in_the_runs_folder(nothing):
    (stage,) = nothing.plan()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(stage.origin.base), load_tokenizer(stage.origin.base)
    assert stage.origin.base.parent == nothing.out / "bases"
    assert (len(tokenizer), model.config.vocab_size, model.config.hidden_size) == (304, 304, 16)
    assert tokenizer.decode(tokenizer(FIRST)["input_ids"]) == FIRST
    assert len(tokenizer(FIRST)["input_ids"]) < len(FIRST) / 2
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")


def test_the_vocabulary_is_filled_up_to_a_multiple_of_eight(nothing):
    house = with_base(nothing, LLAMA, {"train": True, "vocab_size": 301})
    (stage,) = house.plan()
    assert json.loads((stage.origin.base / "config.json").read_text())["vocab_size"] == 304


def test_the_same_recipe_finds_its_base_again_and_makes_the_same_one_where_it_is_gone(nothing):
    (stage,) = nothing.plan()
    digest = digest_folder(stage.origin.base)
    weights = stage.origin.base / "model.safetensors"
    changed = weights.stat().st_mtime_ns
    assert nothing.fingerprints() == [stage.fingerprint] and weights.stat().st_mtime_ns == changed
    shutil.rmtree(nothing.out / "bases")
    assert nothing.fingerprints() == [stage.fingerprint] and digest_folder(stage.origin.base) == digest


def test_another_seed_gives_other_weights_and_another_fingerprint(nothing):
    one, other = nothing.plan()[0], nothing.plan(seed=1)[0]
    assert one.fingerprint != other.fingerprint
    first, second = (load_file(stage.origin.base / "model.safetensors") for stage in (one, other))
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])


def test_other_data_of_the_first_stage_is_another_base(nothing):
    (before,) = nothing.plan()
    (nothing.folder / "corpus.txt").write_text(f"{FIRST} {SECOND}\n" * 19)
    assert nothing.plan()[0].origin.base != before.origin.base


def test_stages_that_begin_from_nothing_share_one_base(nothing):
    rewards = {"name": "taste", "kind": "sft", "data": "chat.jsonl"}
    house = nothing.with_stages(READ, rewards, chat_template="chatml")
    first, second = house.plan()
    assert first.origin.root == second.origin.root
    tokenizer = load_tokenizer(first.origin.root)
    assert len(tokenizer("<|im_start|>")["input_ids"]) == 1


def test_what_was_made_is_told(nothing):
    _, notes = prepared(nothing)
    # Embeddings and output head 304 · 16 each, attention 4 · 16 · 16, feed-forward 3 · 16 · 32, three norms of 16.
    assert notes[0] == (
        "base: 12,336 random weights and a vocabulary of 304 tokens, learned from all 2,000 characters of the data"
    )


@pytest.mark.parametrize(
    ("config", "objective", "shown"),
    [
        (LLAMA, "causal", f"{FIRST}<|endoftext|>"),
        (BERT, "masked", f"[CLS]{FIRST}[SEP]"),
        (T5, "span", f"{FIRST}</s>"),
    ],
)
def test_each_family_has_its_own_special_tokens(nothing, config, objective, shown):
    (nothing.folder / "corpus.txt").write_text(f"{FIRST}\n" * 30)
    data = {"path": "corpus.txt", "split": "lines"}
    (job,), _ = prepared(with_base(nothing, config, objective=objective, data=data))
    example = TokenSet(*job.tokens[0])[0]
    assert load_tokenizer(job.base).decode(example.input_ids) == shown


def test_a_tokenizer_may_be_taken_of_another_model(nothing):
    (stage,) = with_base(nothing, LLAMA, "tiny").plan()
    taken, tiny = load_tokenizer(stage.origin.base), load_tokenizer(BUNDLED["tiny"])
    assert taken(FIRST)["input_ids"] == tiny(FIRST)["input_ids"]


def test_a_configuration_may_lie_in_a_file(nothing):
    told = LLAMA | {"vocab_size": 7, "architectures": ["LlamaForCausalLM"]}
    (nothing.folder / "small.json").write_text(json.dumps(told))
    (stage,) = with_base(nothing, "small.json", {"train": True, "vocab_size": 304}).plan()
    assert json.loads((stage.origin.base / "config.json").read_text())["vocab_size"] == 304


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (LLAMA | {"model_type": "lama"}, r":\d+: base: config has the model_type 'lama' \(did you mean 'llama'"),
        (LLAMA | {"hiden_size": 8}, r"base: config: llama has no 'hiden_size' \(did you mean 'hidden_size'"),
        (LLAMA | {"num_attention_heads": 3}, "base: config describes no llama that can be made"),
        ({"model_type": "vit"}, "base: config: vit is no language model"),
        ("missing.json", r"base: no configuration at .*missing\.json"),
    ],
)
def test_a_configuration_that_is_no_models_is_refused(nothing, config, told):
    with pytest.raises(UserError, match=told):
        with_base(nothing, config).plan()


def test_too_little_data_for_the_vocabulary_is_refused(nothing):
    with pytest.raises(
        UserError, match=r"base: 2,000 characters give [\d,]+ tokens that occur twice, fewer than 5,000"
    ):
        with_base(nothing, LLAMA, {"train": True, "vocab_size": 5000}).plan()


def test_a_mistake_leaves_no_base_behind(nothing):
    house = nothing.with_stages(READ | {"max_length": 65})
    with pytest.raises(UserError, match="max_length 65 is above the 64 positions"):
        run(house.file, house.out)
    assert not house.out.exists()
