"""A model's greedy answers to prompts, in text: causal and encoder-decoder models, with adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from fettle.models.adapters import resume
from fettle.models.base import dtype_of, load_weights
from fettle.models.generate import generate, like_lengths

_BATCH_TOKENS = 1 << 13  # of prompts and answers, with their padding


@dataclass(frozen=True)
class Answer:
    """text: without control tokens. is_ended: the model ended it by itself."""

    text: str
    is_ended: bool


def load_speaker(base: Path, adapter: Path | None) -> Any:
    """The language model in `base`, under an adapter where there is one, in evaluation: in float32 on a CPU; where
    there is a GPU, on it, in the type its weights lie in."""
    has_gpu = torch.cuda.is_available()
    model: Any = load_weights(base, dtype_of(base) if has_gpu else torch.float32)
    model.generation_config = GenerationConfig()  # whatever its own one says is not to fill ours up
    if adapter is not None:
        model = resume(model, adapter)
    return model.to("cuda" if has_gpu else "cpu").eval()


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
) -> Iterator[tuple[int, Answer]]:
    """(position of the prompt, its answer), batch by batch, prompts of like lengths together. prompts: int [T] each."""
    pad_id = tokenizer.pad_token_id or 0
    for places in like_lengths([len(ids) for ids in prompts], max_new_tokens, _BATCH_TOKENS):
        asked = [prompts[place] for place in places]
        made = generate(model, asked, end_ids=end_ids, pad_id=pad_id, max_new_tokens=max_new_tokens)
        for place, (ids, is_ended) in zip(places, made, strict=True):
            text: Any = tokenizer.decode(ids, skip_special_tokens=True)
            yield place, Answer(str(text).strip(), is_ended)
