"""The bundled chat templates against tokens and masks put together by hand, piece by piece."""

from __future__ import annotations

import json
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path

import pytest

from fettle.data.chat import template_of
from fettle.data.encode import Example, encode
from fettle.data.neutral import Neutral
from fettle.data.record import Message, Record
from fettle.data.served import as_messages, as_tools
from fettle.errors import UserError
from fettle.models.base import TEMPLATES, resolve_template


class Learned(str):
    """A piece that bears loss."""


SCHEMA = {
    "type": "function",
    "function": {
        "name": "get_time",
        "description": "The time.",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
    },
}
CALL = {"id": "call00001", "type": "function", "function": {"name": "get_time", "arguments": {"zone": "UTC+1"}}}
# The second answer is not to be learned (`train: false`).
TALK = (
    Message("system", "Sei kürzer."),
    Message("user", "Hi 🙂"),
    Message("assistant", "Yo ö", bears_loss=True),
    Message("user", "And?"),
    Message("assistant", "Nothing."),
    Message("user", "再见"),
    Message("assistant", "Ta 🙂", bears_loss=True),
)
TOOL_TALK = (
    Message("system", "Be brief."),
    Message("user", "Time?"),
    Message("assistant", "", bears_loss=True, tool_calls=(CALL,)),
    Message("tool", "12:00", name="get_time", tool_call_id="call00001"),
    Message("assistant", "Noon.", bears_loss=True),
)

HERMES = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\nYou are provided with function "
    "signatures within <tools></tools> XML tags:\n<tools>\n" + json.dumps(SCHEMA) + "\n</tools>\n\nFor each function "
    "call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:\n"
    '<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n</tool_call>'
)
HERMES_CALL = '<tool_call>\n{"name": "get_time", "arguments": {"zone": "UTC+1"}}\n</tool_call>'


def im(role: str, *pieces: str) -> list[str]:
    """A turn of ChatML: with an answer that is learned, its end is learned too."""
    end = Learned("<|im_end|>") if isinstance(pieces[-1], Learned) else "<|im_end|>"
    return ["<|im_start|>", f"{role}\n", *pieces, end, "\n"]


def header(role: str, piece: str) -> list[str]:
    """A turn of Llama 3."""
    end = Learned("<|eot_id|>") if isinstance(piece, Learned) else "<|eot_id|>"
    return ["<|start_header_id|>", role, "<|end_header_id|>", "\n\n", piece, end]


def turn(role: str, piece: str) -> list[str]:
    """A turn of Gemma."""
    end = Learned("<end_of_turn>") if isinstance(piece, Learned) else "<end_of_turn>"
    return ["<start_of_turn>", f"{role}\n", piece, end, "\n"]


def chatml(*turns: list[str]) -> list[str]:
    return [piece for one in turns for piece in one]


NO_THOUGHT = "<think>\n\n</think>\n\n"
EXPECTED = {
    "chatml": chatml(
        im("system", "Sei kürzer."),
        im("user", "Hi 🙂"),
        im("assistant", Learned("Yo ö")),
        im("user", "And?"),
        im("assistant", "Nothing."),
        im("user", "再见"),
        im("assistant", Learned("Ta 🙂")),
    ),
    "qwen": chatml(
        im("system", "Sei kürzer."),
        im("user", "Hi 🙂"),
        im("assistant", Learned("Yo ö")),
        im("user", "And?"),
        im("assistant", "Nothing."),
        im("user", "再见"),
        im("assistant", Learned(NO_THOUGHT + "Ta 🙂")),
    ),
    "llama3": [
        "BOS",
        *header("system", "Sei kürzer."),
        *header("user", "Hi 🙂"),
        *header("assistant", Learned("Yo ö")),
        *header("user", "And?"),
        *header("assistant", "Nothing."),
        *header("user", "再见"),
        *header("assistant", Learned("Ta 🙂")),
    ],
    "mistral": [
        *("BOS", "[INST]", " Sei kürzer.\n\nHi 🙂", "[/INST]", Learned(" Yo ö"), Learned("EOS")),
        *("[INST]", " And?", "[/INST]", " Nothing.", "EOS"),
        *("[INST]", " 再见", "[/INST]", Learned(" Ta 🙂"), Learned("EOS")),
    ],
    "gemma": [
        "BOS",
        *turn("user", "Sei kürzer.\n\nHi 🙂"),
        *turn("model", Learned("Yo ö")),
        *turn("user", "And?"),
        *turn("model", "Nothing."),
        *turn("user", "再见"),
        *turn("model", Learned("Ta 🙂")),
    ],
}
EXPECTED_TOOLS = {
    "chatml": chatml(
        im("system", "Be brief.\n\n" + HERMES),
        im("user", "Time?"),
        im("assistant", Learned(HERMES_CALL)),
        im("tool", "<tool_response>\n12:00\n</tool_response>"),
        im("assistant", Learned("Noon.")),
    ),
    "qwen": chatml(
        im("system", "Be brief.\n\n" + HERMES),
        im("user", "Time?"),
        im("assistant", Learned(HERMES_CALL)),
        im("user", "<tool_response>\n12:00\n</tool_response>"),
        im("assistant", Learned(NO_THOUGHT + "Noon.")),
    ),
    "llama3": [
        "BOS",
        *header("system", "Be brief."),
        *header(
            "user",
            "Given the following functions, please respond with a JSON for a function call with its proper arguments "
            'that best answers the given prompt.\n\nRespond in the format {"name": function name, "parameters": '
            "dictionary of argument name and its value}.Do not use variables.\n\n"
            f"{json.dumps(SCHEMA, indent=4)}\n\nTime?",
        ),
        *header("assistant", Learned('{"name": "get_time", "parameters": {"zone": "UTC+1"}}')),
        *header("ipython", '"12:00"'),
        *header("assistant", Learned("Noon.")),
    ],
    "mistral": [
        *("BOS", f"[AVAILABLE_TOOLS] {json.dumps([SCHEMA])}[/AVAILABLE_TOOLS]"),
        *("[INST]", " Be brief.\n\nTime?", "[/INST]"),
        Learned('[TOOL_CALLS] [{"name": "get_time", "arguments": {"zone": "UTC+1"}, "id": "call00001"}]'),
        *(Learned("EOS"), '[TOOL_RESULTS] {"content": 12:00, "call_id": "call00001"}[/TOOL_RESULTS]'),
        *(Learned(" Noon."), Learned("EOS")),
    ],
}


def by_hand(pieces: list[str], tokenizer) -> Iterator[tuple[int, bool]]:
    """(token, bears loss): control tokens by their ids, what is between them tokenized by itself."""
    added = tokenizer.get_added_vocab()
    for piece in pieces:
        named = {"BOS": tokenizer.bos_token, "EOS": tokenizer.eos_token}.get(piece, piece)
        if named is None:
            continue
        found = [added[named]] if named in added else tokenizer.encode(str(named), add_special_tokens=False)
        yield from ((token, isinstance(piece, Learned)) for token in found)


def encoded(turns: tuple[Message, ...], tokenizer, tools=()) -> Example:
    (example,) = encode([Record(Path("a"), 1, messages=turns, tools=tools)], tokenizer, max_length=4000)
    return example


def tokens(example: Example) -> list[tuple[int, bool]]:
    return list(zip(example.input_ids.tolist(), example.loss_mask.tolist(), strict=True))


CASES = [(name, TALK, (), pieces) for name, pieces in EXPECTED.items()]
CASES += [(name, TOOL_TALK, (SCHEMA,), pieces) for name, pieces in EXPECTED_TOOLS.items()]
IDS = [f"{name}{' with tools' if tools else ''}" for name, _, tools, _ in CASES]


@pytest.mark.parametrize(("name", "turns", "tools", "pieces"), CASES, ids=IDS)
def test_tokens_and_mask_are_those_put_together_by_hand(make_tokenizer, name, turns, tools, pieces):
    tokenizer = make_tokenizer(resolve_template(name))
    example = encoded(turns, tokenizer, tools)
    assert tokens(example) == list(by_hand(pieces, tokenizer))


@pytest.mark.parametrize(("name", "turns", "tools", "pieces"), CASES, ids=IDS)
def test_tokens_and_mask_on_a_real_base_are_those_put_together_by_hand(base_8m, name, turns, tools, pieces):
    if name in ("llama3", "gemma"):
        pytest.skip("this base has no token that ends a turn of this family")
    tokenizer = deepcopy(base_8m)
    tokenizer.chat_template = resolve_template(name)
    example = encoded(turns, tokenizer, tools)
    assert tokens(example) == list(by_hand(pieces, tokenizer))


@pytest.mark.parametrize(("name", "turns", "tools", "pieces"), CASES, ids=IDS)
def test_tokens_are_those_of_transformers_for_the_messages_as_vllm_hands_them_on(
    make_tokenizer, name, turns, tools, pieces
):
    tokenizer = make_tokenizer(resolve_template(name))
    example = encoded(turns, tokenizer, tools)
    messages, schemas = as_messages(turns, Neutral(())), as_tools(tools, Neutral(()))
    served = tokenizer.apply_chat_template(messages, tools=schemas, tokenize=True, return_dict=False)
    assert example.input_ids.tolist() == served


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("chatml", "<|im_end|>"),
        ("qwen", "<|im_end|>"),
        ("llama3", "<|eot_id|>"),
        ("mistral", "<|end|>"),
        ("gemma", "<end_of_turn>"),
    ],
)
def test_every_bundled_template_ends_its_answers_with_one_token(make_tokenizer, name, end):
    assert set(EXPECTED) == set(TEMPLATES)
    assert template_of(make_tokenizer(resolve_template(name))).end_of_turn == end


def test_qwen_leaves_out_the_thoughts_of_earlier_answers_and_learns_those_of_the_last(make_tokenizer):
    tokenizer = make_tokenizer(resolve_template("qwen"))
    turns = (
        Message("user", "1?"),
        Message("assistant", "<think>\nHm.\n</think>\n\nOne.", bears_loss=True),
        Message("user", "2?"),
        Message("assistant", "<think>\nOh.\n</think>\n\nTwo.", bears_loss=True),
    )
    example = encoded(turns, tokenizer)
    pieces = chatml(
        im("user", "1?"),
        im("assistant", Learned("One.")),
        im("user", "2?"),
        im("assistant", Learned("<think>\nOh.\n</think>\n\nTwo.")),
    )
    assert tokens(example) == list(by_hand(pieces, tokenizer))


@pytest.mark.parametrize(
    ("name", "turns", "why"),
    [
        ("gemma", (TALK[1], TALK[1]), "user and assistant must take turns"),
        ("mistral", (TALK[1], TALK[0], TALK[2]), "only one system message"),
        ("llama3", (TALK[1], Message("assistant", "", tool_calls=(CALL, CALL))), "one tool at a time"),
    ],
)
def test_what_a_family_cannot_say_is_refused_and_not_said_otherwise(make_tokenizer, name, turns, why):
    with pytest.raises(UserError, match=why):
        template_of(make_tokenizer(resolve_template(name))).render(Record(Path("a"), 1, messages=turns))
