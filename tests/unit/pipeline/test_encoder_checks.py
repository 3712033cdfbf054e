"""What an encoder can begin, and what is refused of it, before any worker starts."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small_encoders import write_encoder
from small_house import House

from fettle.errors import UserError
from fettle.pipeline.prepare import prepare

READ = {"name": "read", "kind": "pretrain", "data": "corpus.txt", "max_length": 32}
SORT = {"name": "sort", "kind": "classify", "data": "sorted.csv", "max_length": 32}


@pytest.fixture
def encoders(house: House) -> House:
    """A house with a BERT beside its Llama."""
    write_encoder(house.folder / "bert", [(house.folder / "corpus.txt").read_text(), "text 0123456789"] * 3)
    rows = [f"text {n},{'even' if n % 2 == 0 else 'odd'}" for n in range(20)]
    (house.folder / "sorted.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    return house


def prepared(house: House) -> Any:
    return prepare(house.recipe(), house.plan(), house.out / "tokens")[0]


def test_masked_pre_training_and_then_a_classifier_is_one_recipe(encoders):
    read, sort = prepared(encoders.with_stages(READ | {"objective": "masked"}, SORT, base="bert"))
    assert (sort.base, sort.labels) == (read.artifact, ("even", "odd"))
    assert (read.packing, sort.packing) == (True, False)


@pytest.mark.parametrize(
    ("stage", "told"),
    [
        (READ, r"stages\.read\.objective: objective causal is not for bert, an encoder"),
        (READ | {"objective": "span"}, r"stages\.read\.objective: objective span is not for bert"),
        ({"name": "tell", "kind": "sft", "data": "chat.jsonl"}, r"stages\.tell\.kind: .* cannot begin from bert"),
        (SORT | {"packing": True}, r"stages\.sort\.packing: .* reads the first token of each row"),
        (
            READ | {"objective": "masked", "adapter": {"kind": "prefix"}},
            r"stages\.read\.adapter.*: (adapter prefix is not for bert|prefix tuning is for causal)",
        ),
    ],
)
def test_what_an_encoder_cannot_is_refused(encoders, stage, told):
    with pytest.raises(UserError, match=told):
        prepared(encoders.with_stages({"max_length": 32} | stage, base="bert"))


def test_hidden_tokens_are_refused_with_a_causal_base(encoders):
    with pytest.raises(UserError, match=r"stages\.read\.objective: objective masked is not for base, a causal"):
        prepared(encoders.with_stages(READ | {"objective": "masked"}, base="base"))


def test_an_encoder_without_a_mask_token_is_refused(encoders):
    file = encoders.folder / "bert" / "tokenizer_config.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps({key: value for key, value in told.items() if key != "mask_token"}))
    with pytest.raises(UserError, match=r"the tokenizer of bert has no mask token"):
        prepared(encoders.with_stages(READ | {"objective": "masked"}, base="bert"))
