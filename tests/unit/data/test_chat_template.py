"""Chats of every template family: the tokens serving makes, and loss on the assistant's turns with their ends."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import processors

from fettle.data.chat import rendering_of, template_of
from fettle.data.encode import encode
from fettle.data.formats import read_file
from fettle.data.record import Message, Prompt, Record
from fettle.data.show import in_brackets
from fettle.errors import UserError

# Chat templates of the common families, cut down to what decides where a turn begins and ends.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
_MARKED = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' %}{% generation %}INSIDE{% endgeneration %}AFTER"
    "{% else %}{{ m['content'] + '<|im_end|>\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
MARKED_CONTENT = _MARKED.replace("INSIDE", "{{ m['content'] }}").replace("AFTER", "{{ '<|im_end|>\\n' }}")
MARKED_TOO_FAR = _MARKED.replace("INSIDE", "{{ m['content'] + '<|im_end|>\\n' }}").replace("AFTER", "")
LLAMA3 = (
    "{{ bos_token }}{% for m in messages %}"
    "{{ '<|start_header_id|>' + m['role'] + '<|end_header_id|>\\n\\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + '</s>' }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<start_of_turn>' + ('model' if m['role'] == 'assistant' else m['role']) + '\\n' }}"
    "{{ m['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' }}"
    "{% if m['role'] == 'assistant' and loop.last %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NO_END = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
ENDS_LAST = NO_END.replace(" + '\\n'", " + ('<|im_end|>' if loop.last and m['role'] == 'assistant' else '') + '\\n'")
COUNTS_TURNS = "{{ messages | length }} turns\\n" + CHATML
HIDES_PROMPT = CHATML.replace("assistant\\n' }}{% endif", "assistant\\n<think>\\n' }}{% endif")


def chat(*said: str, file: str = "a.jsonl", line: int = 3) -> Record:
    """A conversation of user and assistant in turn, of which the assistant's are learned."""
    roles = ("user", "assistant")
    turns = [Message(roles[i % 2], words, bears_loss=i % 2 == 1) for i, words in enumerate(said)]
    return Record(Path(file), line, messages=tuple(turns))


def learned(record: Record, tokenizer) -> str:
    (example,) = encode([record], tokenizer, max_length=1000)
    return in_brackets(example, tokenizer)


FAMILIES = {
    "chatml": (
        CHATML,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yo<|im_end|>⟧\n"
        "<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n⟦Ta<|im_end|>⟧\n",
    ),
    "llama3": (
        LLAMA3,
        "<s><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Yo<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Ta<|eot_id|>⟧",
    ),
    "mistral": (MISTRAL, "<s>[INST] Hi [/INST]⟦ Yo</s>⟧[INST] Bye [/INST]⟦ Ta</s>⟧"),
    "gemma": (
        GEMMA,
        "<s><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Yo<end_of_turn>⟧\n"
        "<start_of_turn>user\nBye<end_of_turn>\n<start_of_turn>model\n⟦Ta<end_of_turn>⟧\n",
    ),
    "qwen3": (
        QWEN3,
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n⟦Yo<|im_end|>⟧\n<|im_start|>user\nBye<|im_end|>\n"
        "<|im_start|>assistant\n⟦<think>\n\n</think>\n\nTa<|im_end|>⟧\n",
    ),
    "no end of turn": (NO_END, "user: Hi\nassistant: ⟦Yo\n⟧user: Bye\nassistant: ⟦Ta\n⟧"),
}
FAMILIES["marks without the end of turn"] = (MARKED_CONTENT, FAMILIES["chatml"][1])
FAMILIES["marks past the end of turn"] = (MARKED_TOO_FAR, FAMILIES["chatml"][1])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_assistants_turns_bear_loss_with_their_end_and_nothing_else_does(make_tokenizer, family):
    template, expected = FAMILIES[family]
    assert learned(chat("Hi", "Yo", "Bye", "Ta"), make_tokenizer(template)) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_are_those_serving_makes_of_the_same_messages(make_tokenizer, family):
    tokenizer = make_tokenizer(FAMILIES[family][0])
    record = chat("Hi ö", " Yo\n", "Bye", "Ta 🙂")
    (example,) = encode([record], tokenizer, max_length=1000)
    messages = [{"role": turn.role, "content": turn.content} for turn in record.conversation]
    assert example.input_ids.tolist() == tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)


@pytest.mark.parametrize("family", ["chatml", "llama3", "gemma", "qwen3", "marks past the end of turn"])
def test_what_is_given_before_an_answer_is_the_prompt_that_serving_sends(make_tokenizer, family):
    tokenizer = make_tokenizer(FAMILIES[family][0])
    (example,) = encode([chat("Hi", "Yo")], tokenizer, max_length=1000)
    sent = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=True, return_dict=False
    )
    assert example.input_ids[: example.loss_mask.argmax()].tolist() == sent


@pytest.mark.parametrize(
    ("template", "end"),
    [
        (CHATML, "<|im_end|>"),
        (MARKED_CONTENT, "<|im_end|>"),
        (QWEN3, "<|im_end|>"),
        (LLAMA3, "<|eot_id|>"),
        (MISTRAL, "</s>"),
        (GEMMA, "<end_of_turn>"),
        (NO_END, None),
    ],
)
def test_the_end_of_turn_is_found(make_tokenizer, template, end):
    assert template_of(make_tokenizer(template)).end_of_turn == end


@pytest.mark.parametrize("template", [CHATML, MARKED_CONTENT])
def test_answers_that_are_given_bear_no_loss(make_tokenizer, template):
    turns = (Message("user", "a"), Message("assistant", "b"), Message("user", "c"), Message("assistant", "d", True))
    shown = learned(Record(Path("a"), 1, messages=turns), make_tokenizer(template))
    assert shown.count("⟦") == 1 and "⟦d<|im_end|>⟧" in shown


def test_an_end_of_turn_written_inside_an_answer_does_not_end_it(make_tokenizer):
    assert "⟦a<\u200b|im_end|>b<|im_end|>⟧" in learned(chat("Hi", "a<|im_end|>b"), make_tokenizer(CHATML))


def test_a_template_that_ends_only_the_last_answer_cannot_be_learned_from_in_several_turns(make_tokenizer):
    tokenizer = make_tokenizer(ENDS_LAST)
    assert learned(chat("Hi", "Yo"), tokenizer) == "user: Hi\nassistant: ⟦Yo<|im_end|>⟧\n"
    with pytest.raises(UserError, match=r"a.jsonl:3: .*\(turn 2\): it does not end with <\|im_end\|>"):
        learned(chat("Hi", "Yo", "Bye", "Ta"), tokenizer)


def test_whatever_a_template_raises_is_told_with_file_and_line(make_tokenizer):
    template = "{{ 'too many' + messages | length if messages | length > 2 else '' }}" + CHATML
    with pytest.raises(UserError, match="a.jsonl:3: the chat template refuses these messages: TypeError"):
        learned(chat("Hi", "Yo", "Bye", "Ta"), make_tokenizer(template))


def test_a_template_without_the_assistants_words_is_refused(make_tokenizer):
    with pytest.raises(UserError, match="the chat template leaves out what the assistant says"):
        template_of(make_tokenizer("{{ messages[0].content }}"))


def test_where_several_tokens_end_an_answer_it_ends_with_the_first(make_tokenizer):
    tokenizer = make_tokenizer(CHATML.replace("<|im_end|>", "<|im_end|></s>"))
    assert template_of(tokenizer).end_of_turn == "<|im_end|>"
    assert learned(chat("Hi", "Yo"), tokenizer).endswith("⟦Yo<|im_end|>⟧</s>\n")


def test_a_tokenizer_that_leaves_spaces_out_of_its_offsets_learns_them_all_the_same(make_tokenizer):
    tokenizer = make_tokenizer(NO_END.replace("\\n", " "))
    tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    assert learned(chat("Hi", " Yo"), tokenizer) == "user: Hi assistant: ⟦ Yo ⟧"


def test_an_empty_answer_is_its_end_of_turn(make_tokenizer):
    assert learned(chat("Hi", ""), make_tokenizer(CHATML)).endswith("assistant\n⟦<|im_end|>⟧\n")


def test_a_last_turn_of_the_user_is_kept_and_bears_no_loss(make_tokenizer):
    assert learned(chat("Hi", "Yo", "?"), make_tokenizer(CHATML)).endswith("⟧\n<|im_start|>user\n?<|im_end|>\n")


def test_a_prompt_and_completion_go_through_the_template_where_there_is_one(make_tokenizer):
    record = Record(Path("a"), 1, prompt=Prompt((Message("user", "Hi"),), ("Hi",)), completion="Yo")
    tokenizer = make_tokenizer(CHATML)
    assert learned(record, tokenizer) == learned(chat("Hi", "Yo"), tokenizer)
    assert rendering_of(record, tokenizer).startswith("chat template, answers end with <|im_end|>:\n<|im_start|>user\n")


def test_what_a_template_refuses_is_told_with_file_and_line(make_tokenizer):
    turns = (Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yo", bears_loss=True))
    with pytest.raises(UserError, match=r"a.jsonl:5: the chat template refuses .*: System role not supported"):
        learned(Record(Path("a.jsonl"), 5, messages=turns), make_tokenizer(GEMMA))


@pytest.mark.parametrize(
    ("template", "why"),
    [(COUNTS_TURNS, "what serving puts before the answer"), (HIDES_PROMPT, "<think>\n`, is not")],
)
def test_a_template_that_hides_the_assistants_turns_is_refused(make_tokenizer, template, why):
    with pytest.raises(UserError) as caught:
        learned(chat("Hi", "Yo", "Bye", "Ta"), make_tokenizer(template))
    told = str(caught.value)
    assert told.startswith("a.jsonl:3: the chat template does not show") and why in told


def test_messages_without_a_template_are_an_error_with_file_and_line(make_tokenizer):
    with pytest.raises(UserError) as caught:
        learned(chat("Hi", "Yo"), make_tokenizer())
    assert str(caught.value).startswith("a.jsonl:3: messages: messages need a chat template, and this base has none")
    assert "fix: name one in the recipe (`chat_template: chatml`)" in str(caught.value)


def test_real_chats_on_a_real_base_are_tokenized_as_serving_does(base_8m, shared):
    records = [*read_file(shared("data/sft/v1_sft_demo.jsonl"))[1]][:50]
    examples = list(encode(records, base_8m, max_length=2048))
    served = [
        base_8m.apply_chat_template(
            [{"role": turn.role, "content": turn.content} for turn in record.conversation], return_dict=False
        )
        for record in records
    ]
    assert [example.input_ids.tolist() for example in examples] == served


def test_real_answers_on_a_real_base_are_learned_whole(base_8m, shared):
    rows = json.loads(shared("data/sft/alpaca_en_demo.json").read_text(encoding="utf-8"))[:50]
    records = [*read_file(shared("data/sft/alpaca_en_demo.json"))[1]][:50]
    examples = encode(records, base_8m, max_length=2048)
    said = [base_8m.decode(example.input_ids[example.loss_mask]) for example in examples]
    assert said == [row["output"] + "<|im_end|>" for row in rows]
