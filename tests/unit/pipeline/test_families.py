"""What a base's family allows: records packed into rows, tokens with a row of the embeddings each."""

from __future__ import annotations

import json
from typing import Any

import pytest
from small_house import House

from fettle.errors import UserError
from fettle.pipeline.prepare import prepare

SMALL = {"num_hidden_layers": 1, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 512}
SIZES = {
    "llama": SMALL | {"intermediate_size": 32, "max_position_embeddings": 128},
    "gptj": {"n_layer": 1, "n_embd": 16, "n_head": 2, "n_positions": 128, "rotary_dim": 4, "vocab_size": 512},
    "falcon": SMALL | {"max_position_embeddings": 128},
    "bloom": {"n_layer": 1, "hidden_size": 16, "n_head": 2, "vocab_size": 512},
}


def of_family(house: House, family: str, **more: Any) -> House:
    """The house, whose base is of the family."""
    told = {"model_type": family, **SIZES[family], **more}
    (house.folder / "base" / "config.json").write_text(json.dumps(told))
    return house


def prepared(house: House, **overrides: Any) -> Any:
    return prepare(house.recipe(**overrides), house.plan(**overrides), house.out / "tokens")[0]


@pytest.mark.parametrize(
    ("family", "is_packed"), [("llama", True), ("gptj", True), ("falcon", False), ("bloom", False)]
)
def test_rows_are_packed_where_the_family_keeps_records_apart(house, family, is_packed):
    assert {job.packing for job in prepared(of_family(house, family))} == {is_packed}


@pytest.mark.parametrize(
    ("family", "reason"), [("bloom", "a bloom model has ALiBi"), ("falcon", "falcon models let the records")]
)
def test_packing_is_refused_with_the_reason_where_records_would_see_each_other(house, family, reason):
    with pytest.raises(UserError, match=rf"stages\.domain\.packing: packing is not possible here: .*{reason}"):
        prepared(of_family(house, family), stages__domain__packing=True)


def test_packing_can_be_switched_off(house):
    domain, instruct = prepared(of_family(house, "llama"), stages__domain__packing=False)
    assert (domain.packing, instruct.packing) == (False, True)


def test_a_token_without_a_row_is_refused_by_name(house):
    # The 256 bytes come first, then <|end|>, which ends each document: 256.
    with pytest.raises(
        UserError, match=r"stages\.domain\.data: the data has the token '<\|end\|>' \(256\), .* 256 tokens"
    ):
        prepared(of_family(house, "llama", vocab_size=256).with_stages(house.tree["stages"][0]))


def test_tokens_that_no_record_uses_need_no_row(house):
    # <|im_start|> and <|im_end|>, 257 and 258, are in no document.
    (job,) = prepared(of_family(house, "llama", vocab_size=257).with_stages(house.tree["stages"][0]))
    assert job.name == "domain"


def test_more_rows_than_tokens_are_no_mistake(house):
    assert len(prepared(of_family(house, "llama", vocab_size=320))) == 2
