"""An encoder-decoder model's example: the prompt, which its encoder reads, and the answer, which its decoder writes.

Both lie one after the other in one row of tokens; the answer is what bears loss.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from transformers import PreTrainedTokenizerBase

from fettle.data.chat import ChatTemplate
from fettle.data.neutral import Neutral
from fettle.data.plain import plain_pairs
from fettle.data.record import Record


def split(ids: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the prompt's tokens, the answer's) of an example; ids: integer [T]; mask: bool [T], True from the answer on."""
    start = int(np.argmax(mask)) if mask.any() else len(ids)
    return ids[:start], ids[start:]


def longer(ids: np.ndarray, mask: np.ndarray) -> int:
    """Tokens of the longer half."""
    return max(len(half) for half in split(ids, mask))


def cut(ids: np.ndarray, mask: np.ndarray, max_length: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and mask with each half of at most `max_length` tokens. A prompt keeps its last token, which ends it; a cut
    answer has no end, so that the model does not learn to stop in the middle of it."""
    prompt, answer = split(ids, mask)
    if len(prompt) > max_length:
        prompt = np.concatenate([prompt[: max_length - 1], prompt[-1:]])
    answer = answer[:max_length]
    return np.concatenate([prompt, answer]), np.repeat([False, True], [len(prompt), len(answer)])


def code_halves(
    records: list[Record], tokenizer: PreTrainedTokenizerBase, template: ChatTemplate | None, neutral: Neutral
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(ids, mask) of some records with a prompt, each with the tokens that the tokenizer puts around a text by itself,
    and an end-of-text token at both halves' ends.

    All before the last answer is the prompt. Where that answer is not to be learned, or there is none, nothing bears
    loss. Through a chat template the halves are stretches of its text, and the answer ends with its end of turn.
    """
    pairs = [_of_chat(record, template) if template is not None else _plain(record, neutral) for record in records]
    opening = template is None

    def coded(texts: list[str], *, ends: bool) -> list[list[int]]:
        found = tokenizer(texts, add_special_tokens=opening, return_attention_mask=False, verbose=False)["input_ids"]
        eos = tokenizer.eos_token_id
        return [ids if not ends or ids[-1:] == [eos] else [*ids, eos] for ids in found]

    prompts = coded([prompt for prompt, _ in pairs], ends=True)
    answers = coded([answer or "" for _, answer in pairs], ends=template is None or template.end_of_turn is None)
    for (_, answer), prompt, said in zip(pairs, prompts, answers, strict=True):
        said = [] if answer is None else said
        yield np.asarray([*prompt, *said], dtype=np.int32), np.repeat([False, True], [len(prompt), len(said)])


def _of_chat(record: Record, template: ChatTemplate) -> tuple[str, str | None]:
    rendered = template.render(record)
    turns = record.conversation
    if not (turns and turns[-1].role == "assistant" and turns[-1].bears_loss):
        return rendered.text, None
    start, end = rendered.spans[-1]
    return rendered.text[:start], rendered.text[start:end]


def _plain(record: Record, neutral: Neutral) -> tuple[str, str | None]:
    *before, (asked, answer, is_learned) = plain_pairs(record, neutral)
    prompt = "".join(text or "" for pair in before for text in pair[:2]) + asked
    return prompt, answer if is_learned else None
