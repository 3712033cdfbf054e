"""A tokenizer learned from data: byte-level BPE (Sennrich et al. 2016, arXiv:1508.07909; over bytes: GPT-2)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from fettle.data.record import Record

_AT_ONCE = 1 << 16  # characters
# What chat templates write around turns: ChatML's, Llama 3's and Gemma's, Mistral's.
_OF_TEMPLATES = re.compile(r"<\|[^|<>{}\s]+\|>|<(?:start|end)_of_turn>|\[/?INST\]")
_SPECIAL: dict[str, dict[str, str]] = {
    "causal": {"pad_token": "<|pad|>", "eos_token": "<|endoftext|>"},
    "masked": {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
    },
    "seq2seq": {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"},
}
_SENTINELS = [f"<extra_id_{number}>" for number in range(100)]


def learn_tokenizer(
    texts: Iterable[str], size: int, family: Literal["causal", "masked", "seq2seq"], chat_template: str | None = None
) -> PreTrainedTokenizerFast:
    """A tokenizer of at most `size` tokens, fewer where the texts have no more pieces that occur twice.

    With the special tokens of the family, and those the chat template writes: end of text and padding; BERT's, put
    around each text; T5's, with its hundred sentinels, and the end after each text.
    """
    named = _SPECIAL[family]
    more = _SENTINELS if family == "seq2seq" else sorted(set(_OF_TEMPLATES.findall(chat_template or "")))
    special = [*named.values(), *(token for token in more if token not in named.values())]
    inner = Tokenizer(models.BPE())
    # Set by assignment, as the library's attributes are no plain ones.
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_pieces(texts), trainer)
    if family == "masked":
        inner.post_processor = _around(inner, "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", ("[CLS]", "[SEP]"))
    elif family == "seq2seq":
        inner.post_processor = _around(inner, "$A </s>", "$A </s> $B </s>", ("</s>",))
    told: dict[str, Any] = {"additional_special_tokens": more} if more else {}
    return PreTrainedTokenizerFast(tokenizer_object=inner, clean_up_tokenization_spaces=False, **named, **told)


def texts_of(record: Record) -> Iterator[str]:
    """All that is written in a record: its text, or what its turns and answers say."""
    if record.text is not None:
        yield record.text
    for _, part in record.parts():
        yield from (turn.content for turn in part.conversation)


def _around(inner: Tokenizer, single: str, pair: str, tokens: tuple[str, ...]) -> Any:
    ids = [(token, inner.token_to_id(token)) for token in tokens]
    return processors.TemplateProcessing(single=single, pair=pair, special_tokens=ids)


def _pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts in pieces that the library can spread over its threads."""
    for text in texts:
        for start in range(0, len(text), _AT_ONCE):
            yield text[start : start + _AT_ONCE]
