"""A model's answers to prompts, in text: causal and encoder-decoder models, with adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from fettle.models.generate import Draws, generate, like_lengths

_BATCH_TOKENS = 1 << 13  # of prompts and answers, with their padding


@dataclass(frozen=True)
class Answer:
    """text: without control tokens. is_ended: the model ended it by itself."""

    text: str
    is_ended: bool


def cut_prompt(ids: np.ndarray, longest: int, *, is_seq2seq: bool) -> np.ndarray:
    """At most `longest` of a prompt's tokens, [T]: its end, which asks for the answer; of what an encoder reads its
    beginning, and the token that ends it."""
    if len(ids) <= longest:
        return ids
    return np.concatenate([ids[: longest - 1], ids[-1:]]) if is_seq2seq else ids[-longest:]


def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    end_ids: Sequence[int],
    max_new_tokens: int,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[tuple[int, Answer]]:
    """(position of the prompt, its answer), batch by batch, prompts of like lengths together. prompts: int [T] each.

    temperature: 0 is greedy; above it each answer is drawn by itself, from the seed and its prompt's position.
    """
    pad_id = tokenizer.pad_token_id or 0
    for places in like_lengths([len(ids) for ids in prompts], max_new_tokens, _BATCH_TOKENS):
        asked = [prompts[place] for place in places]
        drawn = [Draws(temperature, [f"{seed} {place}" for place in places])] if temperature else []
        keys: dict[str, Any] = {"end_ids": end_ids, "pad_id": pad_id, "max_new_tokens": max_new_tokens}
        made = generate(model, asked, **keys, processors=drawn)
        for place, (ids, is_ended) in zip(places, made, strict=True):
            text: Any = tokenizer.decode(ids, skip_special_tokens=True)
            yield place, Answer(str(text).strip(), is_ended)
