"""`base: {config, tokenizer}` in a recipe, and what hides tokens."""

from __future__ import annotations

import pytest

from fettle.errors import UserError

RECIPE = """
name: x
base: {base}
stages:
  - {{name: a, kind: pretrain, data: x.txt{more}}}
"""


def test_a_base_is_a_name_or_what_to_make_one_of(load):
    named = load(RECIPE.format(base="tiny", more="")).base
    made = load(RECIPE.format(base="{config: {model_type: llama, hidden_size: 8}, tokenizer: train}", more="")).base
    assert named == "tiny"
    assert (made.config, made.tokenizer.train) == ({"model_type": "llama", "hidden_size": 8}, True)


def test_a_tokenizer_may_be_another_models(load):
    assert load(RECIPE.format(base="{config: config.json, tokenizer: tiny}", more="")).base.tokenizer == "tiny"


@pytest.mark.parametrize(
    ("base", "told"),
    [
        ("{config: c.json}", r":3: base\.tokenizer: this key is missing"),
        ("{config: c.json, tokeniser: train}", r"base\.tokeniser: unknown key \(did you mean 'tokenizer'"),
        ("{config: c.json, tokenizer: {train: true, vocab_size: 8}}", r"base\.tokenizer\.vocab_size: .* 300, not 8"),
        ("{config: {hidden_size: 8}, tokenizer: train}", "base: config needs a model_type"),
        ("{config: {model_type: llama, vocab_size: 9}, tokenizer: train}", "vocab_size has no effect in config"),
    ],
)
def test_mistakes_in_the_keys_are_told_as_such(load, base, told):
    with pytest.raises(UserError, match=told):
        load(RECIPE.format(base=base, more=""))


def test_a_mask_rate_is_refused_where_nothing_is_hidden(load):
    assert load(RECIPE.format(base="tiny", more=", objective: masked, mask_rate: 0.3")).stages[0].mask_rate == 0.3
    with pytest.raises(UserError, match="mask_rate has no effect with objective: causal"):
        load(RECIPE.format(base="tiny", more=", mask_rate: 0.3"))
