"""Held-out records planted in training data are found, and what only looks alike is not."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest

from fettle.data.overlap import Heldout, Pair, compared
from fettle.data.record import Answer, Message, Prompt, Record
from fettle.data.words import BREAK, GRAM, MOST_BYTES, grams_of

PARAGRAPH = (
    "The night train leaves platform six at nine in the evening, calls at Saltwick and Marrow Cross, "
    "and is in Northline before the bakers have lit their ovens."
)
TRAIN, HELDOUT = Path("train.jsonl"), Path("heldout.jsonl")


def words(seed: int, number: int = 60) -> str:
    """Words that no other text has in this order."""
    draw = random.Random(seed)
    return " ".join(
        draw.choice(("tide", "lamp", "ferry", "stone", "amber", "quay", "wren", "mill")) for _ in range(number)
    )


def text(file: Path, line: int, said: str) -> Record:
    return Record(file, line, text=said)


def asked(file: Path, line: int, question: str, answer: str, system: str = "") -> Record:
    turns = (*([Message("system", system)] if system else []), Message("user", question))
    return Record(file, line, prompt=Prompt(turns), completion=answer)


def overlap(train: list[Record], heldout: list[Record]):
    held = Heldout()
    for record in heldout:
        held.hold(record)
    for record in train:
        held.look(record)
    return held.found()


def reference(said: str) -> list[tuple[str, ...]]:
    """Sequences of 13 words, by regular expression."""
    found = re.findall(r"[^\s.,;:!?'\"()\[\]{}`_#~|\\*“”’–—…]+", said.lower())
    return [tuple(found[i : i + GRAM]) for i in range(len(found) - GRAM + 1)]


def test_sequences_are_those_of_a_plain_count_and_equal_hashes_mean_equal_words():
    texts = [
        words(1),
        "",
        "Ça va? “Très bien” — ÉTÉ… " * 9,
        "12 + 5",
        "12 - 5",
        "Hi, hi! HI.",
        words(1),
        "  \n ",
        "a" * 99,
    ]
    expected = [(gram, place) for place, said in enumerate(texts) for gram in reference(said)]
    hashes, owners, _ = grams_of(texts)
    assert owners.tolist() == [place for _, place in expected]
    by_words: dict[tuple[str, ...], int] = {}
    for (gram, _), value in zip(expected, hashes.tolist(), strict=True):
        assert by_words.setdefault(gram, value) == value
    assert len(set(by_words.values())) == len(by_words)


def test_the_hash_of_all_words_is_equal_for_equal_words_only():
    alike = ["Hi, there…", "hi there", "HI — “there”!"]
    others = ["", "12 + 5", "12 - 5", "hi", "hi there hi there", "there hi", "hithere", "été", "春眠", "眠春"]
    _, _, wholes = grams_of(alike + others)
    assert len(set(wholes[:3].tolist())) == 1 and len(set(wholes.tolist())) == 1 + len(others)
    assert wholes[3] == 0


def test_no_sequence_crosses_a_break():
    hashes, owners, _ = grams_of([f"{words(1, 15)}{BREAK}{words(2, 12)}{BREAK}{words(3, 14)}", words(2, 12)])
    assert hashes.tolist() == [*grams_of([words(1, 15)])[0], *grams_of([words(3, 14)])[0]]
    assert owners.tolist() == [0] * 5


def test_a_character_of_a_script_without_spaces_is_a_word():
    assert len(grams_of(["春眠不覚暁処処聞啼鳥夜来風雨声"])[0]) == 15 - GRAM + 1


def test_as_many_bytes_as_are_allowed_are_taken_apart():
    hashes, owners, _ = grams_of(["ab " * (MOST_BYTES // 3)])
    assert len(hashes) == len(owners) == MOST_BYTES // 3 - GRAM + 1 and len(np.unique(hashes)) == 1


def test_a_record_that_is_in_the_training_data_is_equal_whatever_its_case_and_white_space():
    found = overlap(
        [text(TRAIN, 1, words(1)), asked(TRAIN, 7, "Where is  the TRAIN?\n", "Platform six.")],
        [asked(HELDOUT, 3, "where is the train?", "Platform  six."), text(HELDOUT, 4, words(2))],
    )
    assert (found.records, found.equal, found.near) == (2, 1, 0)
    assert found.pairs == (Pair((TRAIN, 7), (HELDOUT, 3), "equal"),)


@pytest.mark.parametrize(
    "said",
    [
        PARAGRAPH.upper(),
        PARAGRAPH.replace(",", " –").replace(".", "!"),
        PARAGRAPH.replace(" ", "\n  "),
        f"{words(1)} {PARAGRAPH} {words(2)}",
        " ".join(PARAGRAPH.split()[3:18]),
    ],
    ids=["case", "punctuation", "white space", "in a longer document", "a part of it"],
)
def test_a_paragraph_copied_with_small_changes_is_near(said):
    found = overlap([text(TRAIN, 1, words(3)), text(TRAIN, 2, said)], [text(HELDOUT, 1, PARAGRAPH)])
    assert found.equal + found.near == 1 and found.pairs[0].train == (TRAIN, 2)


def test_an_answer_copied_into_a_document_is_near():
    found = overlap([text(TRAIN, 2, f"{words(1)}\n{PARAGRAPH}")], [asked(HELDOUT, 1, "When does it leave?", PARAGRAPH)])
    assert (found.equal, found.near) == (0, 1)


def test_twelve_words_in_a_row_are_no_overlap_and_thirteen_are():
    shared = PARAGRAPH.split()
    for number, near in ((12, 0), (13, 1)):
        said = " ".join(shared[:number])
        assert overlap([text(TRAIN, 1, f"{said} {words(1)}")], [text(HELDOUT, 1, f"{said} {words(2)}")]).near == near


def test_a_short_record_overlaps_only_with_the_whole_of_another():
    held = [asked(HELDOUT, 1, "Thank you!", "You are welcome.")]
    assert overlap([asked(TRAIN, 1, "Thank you!", f"You are welcome. {words(1)}")], held).near == 0
    assert overlap([asked(TRAIN, 1, "thank you", "You are welcome!")], held).near == 1


def test_a_shared_system_prompt_and_stock_phrases_are_no_overlap():
    system = f"You are the helpful assistant of a railway. {words(9)}"
    stock = "I am sorry, but I cannot help you with that."
    train = [asked(TRAIN, i, words(i), stock, system) for i in range(8)]
    found = overlap(train, [asked(HELDOUT, i, words(100 + i), stock, system) for i in range(4)])
    assert (found.records, found.equal, found.near) == (4, 0, 0)


def test_a_stock_answer_after_questions_that_end_alike_is_no_overlap():
    answer = "In Dunmarrow our trains leave from platform three. Sleep well!"
    train = [asked(TRAIN, i, f"{words(i)} to the train called Heron?", answer) for i in range(3)]
    held = [asked(HELDOUT, 1, f"{words(50)} to the train called Heron?", answer)]
    assert overlap(train, held).near == 0


def test_a_conversation_of_short_turns_is_found_with_other_punctuation():
    train = [asked(TRAIN, 3, "Where, then, is platform 6?", "In Saltwick, of course – in Saltwick!")]
    held = [asked(HELDOUT, 1, "Where then is platform 6", "In Saltwick of course; in Saltwick.")]
    assert overlap(train, held).pairs == (Pair((TRAIN, 3), (HELDOUT, 1), "near"),)


def test_a_template_that_many_training_records_share_is_no_overlap_but_a_leak_beside_it_is():
    template = "Read the following passage with care and then answer in one short sentence that names the place:"
    train = [asked(TRAIN, i, f"{template} {words(i)}", "In Saltwick.") for i in range(20)]
    held = [
        asked(HELDOUT, 1, f"{template} {words(50)}", "No."),
        asked(HELDOUT, 2, f"{template} {words(7)}", "Nowhere."),
    ]
    found = overlap(train, held)  # and the first words after the template are the same for some
    assert found.pairs == (Pair((TRAIN, 7), (HELDOUT, 2), "near"),)


def test_a_template_that_many_held_out_records_share_is_no_overlap():
    template = "Read the following passage with care and then answer in one short sentence that names the place:"
    train = [asked(TRAIN, i, f"{template} {words(i)}", "In Saltwick.") for i in range(3)]
    held = [asked(HELDOUT, i, f"{template} {words(50 + i)}", "No.") for i in range(20)]
    assert overlap(train, held).near == 0


def test_a_leak_is_found_anywhere_in_a_long_document():
    filler = [words(i, 300) for i in range(80)]  # several pieces
    for place in (0, 40, 79):
        document = " ".join([*filler[:place], PARAGRAPH, *filler[place:]])
        assert overlap([text(TRAIN, 1, document)], [text(HELDOUT, 1, PARAGRAPH)]).near == 1
    leak = " ".join(filler[60].split()[100:120])
    assert overlap([text(TRAIN, 1, leak)], [text(HELDOUT, 1, " ".join(filler))]).near == 1


def test_planted_copies_are_all_found_among_thousands():
    train = [text(TRAIN, i, words(i, 40)) for i in range(3000)]
    held = [text(HELDOUT, i, words(10_000 + i, 40) if i % 10 else words(i, 40).upper() + "?") for i in range(500)]
    found = overlap(train, held)
    assert (found.records, found.equal, found.near, len(found.pairs)) == (500, 0, 50, 5)
    assert found.pairs[1] == Pair((TRAIN, 10), (HELDOUT, 10), "near")


def test_no_held_out_record_and_no_training_record_are_no_overlap():
    assert overlap([text(TRAIN, 1, "x")], []).records == 0
    assert overlap([], [text(HELDOUT, 1, "x")]).near == 0
    assert overlap([text(TRAIN, 1, "")], [text(HELDOUT, 1, "")]).equal == 0


def test_compared_is_what_users_and_assistants_say():
    prompt = Prompt((Message("system", "S"), Message("user", "Q")))
    answers = (Answer((Message("assistant", "A"),)), Answer((Message("assistant", "B"), Message("tool", "T"))))
    assert compared(Record(TRAIN, 1, prompt=prompt, answers=answers)) == f"Q{BREAK}A{BREAK}B"
    assert compared(Record(TRAIN, 1, prompt=prompt, steps=("A", "B"))) == f"Q{BREAK}A{BREAK}B"
    assert (
        compared(Record(TRAIN, 1, messages=(*prompt.turns, Message("tool", "T"), Message("assistant", "A"))))
        == f"Q{BREAK}A"
    )
    assert compared(Record(TRAIN, 1, prompt=prompt)) == "Q"
