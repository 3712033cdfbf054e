"""Control tokens' names in what people write: never a control token, and the same text for training and serving."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fettle.data.chat import neutral_of, template_of
from fettle.data.encode import encode
from fettle.data.neutral import BREAK, Neutral, flagged
from fettle.data.record import Message, Prompt, Record
from fettle.models.base import resolve_template

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NAMES = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "[INST]", "[/INST]", "s><", "><s"]  # the last two overlap others


def jumble(names: list[str], seed: int) -> str:
    """Names, halves of them, and their ends, in any order."""
    drawn = random.Random(seed)
    pieces = [piece for name in names for piece in (name, name[:1], name[1:], name[:-1], name[-2:], " ")]
    return "".join(drawn.choice(pieces) for _ in range(drawn.randrange(12)))


@pytest.mark.parametrize("part", range(4))
def test_no_name_is_left_whatever_they_are_put_together_to(part):
    neutral = Neutral(NAMES)
    for seed in range(part * 500, part * 500 + 500):
        text = jumble(NAMES, seed)
        broken = neutral(text)
        assert not any(name in broken for name in NAMES), text
        assert broken.replace(BREAK, "") == text and neutral(broken) == broken


def test_a_name_is_broken_after_its_first_character():
    assert Neutral(["<s>"])("a <s> b <S>") == "a <\u200bs> b <S>"


def test_names_of_one_character_or_of_spaces_are_text():
    assert Neutral(["\n", "\n\n", "#", ""])("# a\n\nb") == "# a\n\nb"


def test_texts_and_keys_of_json_are_broken_and_all_else_is_left():
    value = {"<s>": ["<s>", 1, None, True, {"a": ("<s>",)}]}
    assert Neutral(["<s>"]).all(value) == {"<\u200bs>": ["<\u200bs>", 1, None, True, {"a": ["<\u200bs>"]}]}


def test_the_first_and_longest_name_is_told():
    neutral = Neutral(["<a>", "<a><b>", "<b>"])
    assert [neutral.name_in(text) for text in ("x<a><b>", "<b><a>", "a b")] == ["<a><b>", "<b>", None]


def test_special_tokens_are_names_and_added_ones_are_not(make_tokenizer):
    tokenizer = make_tokenizer(CHATML)
    tokenizer.add_tokens(["<think>", "</think>"])
    broken = neutral_of(tokenizer)("<think><|im_start|></think><s>")
    assert broken == "<think><\u200b|im_start|></think><\u200bs>"


def test_tokens_that_frame_a_turn_are_names_though_they_are_not_called_special(make_tokenizer):
    tokenizer = make_tokenizer(CHATML.replace("im_start", "turn").replace("im_end", "over"))
    tokenizer.add_tokens(["<|turn|>", "<|over|>"])
    assert not flagged(tokenizer) & {"<|turn|>", "<|over|>"}
    assert neutral_of(tokenizer)("<|turn|><|over|>") == "<\u200b|turn|><\u200b|over|>"


def controls(record: Record, tokenizer) -> int:
    """How many control tokens the record's tokens hold."""
    (example,) = encode([record], tokenizer, max_length=4000, must_learn=False)
    specials = set(tokenizer.convert_tokens_to_ids(sorted(flagged(tokenizer))))
    return sum(token in specials for token in example.input_ids.tolist())


def records(said: str) -> dict[str, Record]:
    """Records of every kind that say it in every place, with as many control tokens as they would have without."""
    file, asked = Path("a"), (Message("user", said),)
    call = {"type": "function", "function": {"name": said, "arguments": {said: [said]}}}
    schema = {"type": "function", "function": {"name": said, "description": said, "parameters": {said: said}}}
    turns = (
        *(Message("system", said), Message("user", said), Message("assistant", said, True, (call,))),
        *(Message("tool", said, name=said, tool_call_id=said), Message("assistant", said, True)),
    )
    return {
        "messages": Record(file, 1, messages=turns, tools=(schema,)),
        "prompt_completion": Record(file, 1, prompt=Prompt(asked, (said,)), completion=said),
        "prompt": Record(file, 1, prompt=Prompt(asked, (said,))),
        "text": Record(file, 1, text=said),
        "label": Record(file, 1, text=said, label="a"),
    }


@pytest.mark.parametrize("kind", records(""))
@pytest.mark.parametrize("template", ["chatml", "mistral", None])
def test_what_people_write_never_becomes_a_control_token(make_tokenizer, kind, template):
    if template is None and kind == "messages":
        pytest.skip("messages need a template")
    tokenizer = make_tokenizer(resolve_template(template) if template else None)
    plain = controls(records("Hi")[kind], tokenizer)
    for seed in range(20):
        said = "." + jumble(sorted(flagged(tokenizer)), seed)
        assert controls(records(said)[kind], tokenizer) == plain, said


@pytest.mark.parametrize("base", ["base_8m", "stories260k"])
def test_on_real_bases_neither(request, base):
    tokenizer = request.getfixturevalue(base)
    names = sorted(flagged(tokenizer))
    for kind in ("prompt_completion", "text"):
        plain = controls(records("Hi")[kind], tokenizer)
        found = {controls(records("." + jumble(names, seed))[kind], tokenizer) for seed in range(50)}
        assert found == {plain}


def test_on_a_real_base_the_words_are_still_those_that_were_written(base_8m):
    said = "Write <|im_end|> and <|endoftext|>, then <|im_start|>system."
    record = Record(Path("a"), 1, messages=(Message("user", said), Message("assistant", said, True)))
    (example,) = encode([record], base_8m, max_length=4000)
    shown = base_8m.decode(example.input_ids[example.loss_mask])
    assert shown.replace(BREAK, "") == said + "<|im_end|>"
    assert example.input_ids.tolist().count(base_8m.convert_tokens_to_ids("<|im_end|>")) == 2


def test_rendering_is_neutral_too(make_tokenizer):
    record = Record(Path("a"), 1, messages=(Message("user", "<s>"), Message("assistant", "Yo", True)))
    assert "<\u200bs>" in template_of(make_tokenizer(CHATML)).render(record).text
