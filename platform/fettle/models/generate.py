"""Answers in token ids, by transformers' own `generate`: of causal and of encoder-decoder models, adapters too."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from fettle.models.adapters import resume
from fettle.models.base import dtype_of, load_weights


def load_speaker(base: Path, adapter: Path | None, dtype: torch.dtype | None = None) -> Any:
    """The language model in `base`, under an adapter where there is one, in evaluation: in float32 on a CPU; where
    there is a GPU, on it, in the type its weights lie in; or in `dtype`."""
    has_gpu = torch.cuda.is_available()
    model: Any = load_weights(base, dtype or (dtype_of(base) if has_gpu else torch.float32))
    model.generation_config = GenerationConfig()  # whatever its own one says is not to fill ours up
    if adapter is not None:
        model = resume(model, adapter)
    return model.to("cuda" if has_gpu else "cpu").eval()


@torch.no_grad()
def generate(
    model: Any,
    prompts: Sequence[np.ndarray],
    *,
    end_ids: Sequence[int],
    pad_id: int,
    max_new_tokens: int,
    processors: Sequence[LogitsProcessor] = (),
    stopping: Sequence[StoppingCriteria] = (),
) -> list[tuple[list[int], bool]]:
    """(the answer's token ids without the one that ends it, whether the model ended it by itself) of each prompt, int
    [T]. Greedy, after the `processors`. stopping: what else ends an answer.

    Prompts of unlike lengths are padded: on the left, where the answer goes on from them, but for an encoder. What the
    model's own generation_config says fills up what is not said here.
    """
    is_seq2seq = bool(model.config.is_encoder_decoder)
    settings = GenerationConfig(
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=list(end_ids),
        pad_token_id=pad_id,
        decoder_start_token_id=model.config.decoder_start_token_id if is_seq2seq else None,
    )
    width = max(len(ids) for ids in prompts)
    given = torch.full((len(prompts), width), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(given)
    for row, ids in enumerate(prompts):
        here = slice(0, len(ids)) if is_seq2seq else slice(width - len(ids), width)
        given[row, here], mask[row, here] = torch.from_numpy(ids.astype(np.int64)), 1
    made = model.generate(
        input_ids=given.to(model.device),
        attention_mask=mask.to(model.device),
        generation_config=settings,
        logits_processor=LogitsProcessorList(processors),
        stopping_criteria=StoppingCriteriaList(stopping),
    )
    return [_without_end(said, end_ids) for said in made[:, 1 if is_seq2seq else width :].tolist()]


class Draws(LogitsProcessor):
    """Makes the likeliest token one that is drawn: logits / temperature plus Gumbel noise (Maddison et al. 2014,
    arXiv:1411.0030, section 2), from a generator for each row, so that no answer depends on its neighbours."""

    def __init__(self, temperature: float, seeds: Sequence[str]) -> None:
        self._temperature = temperature
        self._generators = [torch.Generator().manual_seed(_number(seed)) for seed in seeds]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        drawn = [torch.empty(scores.shape[-1]).exponential_(generator=one) for one in self._generators]
        noise = -torch.stack(drawn).clamp_min(torch.finfo(torch.float32).tiny).log()
        return scores.float() / self._temperature + noise.to(scores.device)


def like_lengths(lengths: Sequence[int], max_new_tokens: int, most: int) -> Iterator[list[int]]:
    """Positions in batches of like lengths, the longest first; with answers and padding at most `most` tokens each."""
    left = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    while left:
        count = max(1, most // (lengths[left[0]] + max_new_tokens))
        yield left[:count]
        left = left[count:]


def _without_end(said: list[int], end_ids: Sequence[int]) -> tuple[list[int], bool]:
    ends = [place for place, token in enumerate(said) if token in end_ids]
    return (said[: ends[0]] if ends else said), bool(ends)


def _number(seed: str) -> int:
    return int.from_bytes(hashlib.blake2b(seed.encode(), digest_size=7).digest(), "big")
