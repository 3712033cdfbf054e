"""Long texts in pieces have the very tokens they have at once."""

from __future__ import annotations

import random

import numpy as np
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from fettle.data import coder, long_text
from fettle.data.encode import encode
from fettle.data.long_text import tokenize_long
from fettle.data.record import Record
from fettle.models.base import BUNDLED


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_text, "_PIECE", 2000)
    monkeypatch.setattr(long_text, "_OVERLAP", 400)


@pytest.fixture(scope="module")
def tiny() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(BUNDLED["tiny"])


def prose(seed: int, size: int = 20_000) -> str:
    """Words, lines, numbers, other scripts and characters of several tokens, in no order."""
    given = random.Random(seed)
    words = [
        "the",
        " night",
        " train",
        "\n",
        "\n\n",
        " 1907",
        ", ",
        "Ünïcode",
        "漢字",
        "😀",
        "\u200d",
        "  ",
        "\t",
        "'s",
        "xxxxx",
    ]
    return "".join(given.choices(words, k=size // 4))[:size]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["tiny", "base_8m", "stories260k"])
def test_the_tokens_are_those_of_the_whole_text(request, name, seed):
    tokenizer = request.getfixturevalue(name)
    text = prose(seed)
    whole = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    assert np.array_equal(tokenize_long(text, tokenizer), whole)


@pytest.mark.parametrize("size", [1, 1999, 2000, 2400, 2401, 4000, 4401])
def test_a_text_of_any_length_is_covered_to_its_end(tiny, size):
    text = prose(0)[:size]
    whole = tiny(text, add_special_tokens=False)["input_ids"]
    assert np.array_equal(tokenize_long(text, tiny), whole)


def test_a_text_without_any_seam_is_done_at_once(make_tokenizer):
    tokenizer = make_tokenizer(merges=[("a", "a"), ("aa", "a")])
    text = "a" * 5000  # one word, cut into pieces of three a's from wherever one begins
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert np.array_equal(tokenize_long(text, tokenizer), whole)


def test_encoding_a_long_text_gives_the_examples_it_had(monkeypatch, tmp_path, tiny):
    record = Record(tmp_path / "x.txt", 1, text=prose(1))

    def ids() -> list[list[int]]:
        return [one.input_ids.tolist() for one in encode([record], tiny, max_length=64)]

    whole = ids()
    monkeypatch.setattr(coder, "LONG", 100)
    assert ids() == whole
