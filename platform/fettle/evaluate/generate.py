"""A model's greedy answers to prompts, by transformers' own `generate`: causal and encoder-decoder models, adapters."""

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


@torch.no_grad()
def answers(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    end_ids: Sequence[int],
    max_new_tokens: int,
) -> Iterator[tuple[int, Answer]]:
    """(position of the prompt, its answer), batch by batch, prompts of like lengths together. prompts: int [T] each."""
    is_seq2seq = bool(model.config.is_encoder_decoder)
    pad_id = tokenizer.pad_token_id or 0
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
        decoder_start_token_id=model.config.decoder_start_token_id if is_seq2seq else None,
    )
    generate: Any = model.generate
    for places in _batches([len(ids) for ids in prompts], max_new_tokens):
        width = max(len(prompts[place]) for place in places)
        given = torch.full((len(places), width), pad_id, dtype=torch.int64)
        mask = torch.zeros_like(given)
        for row, place in enumerate(places):
            ids = torch.from_numpy(prompts[place].astype(np.int64))
            here = slice(0, len(ids)) if is_seq2seq else slice(width - len(ids), width)
            given[row, here], mask[row, here] = ids, 1
        made = generate(
            input_ids=given.to(model.device), attention_mask=mask.to(model.device), generation_config=settings
        )
        for place, said in zip(places, made[:, 1 if is_seq2seq else width :].tolist(), strict=True):
            ends = [at for at, token in enumerate(said) if token in end_ids]
            text: Any = tokenizer.decode(said[: ends[0]] if ends else said, skip_special_tokens=True)
            yield place, Answer(str(text).strip(), bool(ends))


def _batches(lengths: Sequence[int], most: int) -> Iterator[list[int]]:
    """Positions in batches of like lengths, the longest first."""
    left = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    while left:
        count = max(1, _BATCH_TOKENS // (lengths[left[0]] + most))
        yield left[:count]
        left = left[count:]
