"""What a language model loses on examples: the negative log-likelihood of their loss-bearing tokens, by transformers.

The tokens, the masks and the batches are training's own (`data/encode.py`, `data/batches.py`), so a stage's held-out
loss is what is found here. Perplexity is its exponential (Jelinek et al. 1977, "Perplexity: a measure of the difficulty
of speech recognition tasks"), per token of the model's own tokenizer: of two tokenizers it says nothing.

Letters: N examples, R rows, T tokens of the longest row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from fettle.data.batches import IGNORE, Encoded, collate
from fettle.data.halved_batches import collate_halves
from fettle.data.halves import split
from fettle.models.generate import like_lengths

_BATCH_TOKENS = 1 << 13  # with their padding
_MOST_LOGITS = 1 << 28  # of a batch: 1 GiB in float32


@torch.no_grad()
def example_losses(model: Any, examples: Sequence[Encoded], *, pad_id: int) -> np.ndarray:
    """The loss of each example, [N] float64: nats, summed over its loss-bearing tokens.

    model: in evaluation (`load_speaker`), causal or an encoder-decoder, whose examples are a prompt and then an answer.
    Each example is a row of its own, with others of like lengths; none sees another. The logits are in the model's
    dtype, all else in float32.
    """
    is_halved = bool(model.config.is_encoder_decoder)
    most = max(1, min(_BATCH_TOKENS, _MOST_LOGITS // int(model.config.get_text_config().vocab_size)))
    found = np.zeros(len(examples), dtype=np.float64)
    for places in like_lengths([len(example.input_ids) for example in examples], 0, most):
        chosen = [examples[place] for place in places]
        batch = _halves(model, chosen, pad_id) if is_halved else _rows(chosen, pad_id)
        found[places] = _row_losses(model, {key: value.to(model.device) for key, value in batch.items()})
    return found


def _rows(examples: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    longest = max(len(example.input_ids) for example in examples)
    batch = collate(examples, max_length=longest, packing=False, pad_id=pad_id)
    # A token is predicted from where the one before it stands.
    batch["labels"] = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=IGNORE)
    return batch


def _halves(model: Any, examples: Sequence[Encoded], pad_id: int) -> dict[str, torch.Tensor]:
    halves = [split(example.input_ids, example.loss_mask) for example in examples]
    prompts, answers = [prompt for prompt, _ in halves], [answer for _, answer in halves]
    return collate_halves(prompts, answers, pad_id=pad_id, start_id=int(model.config.decoder_start_token_id))


def _row_losses(model: Any, batch: dict[str, torch.Tensor]) -> np.ndarray:
    """[R] float64. batch: what the model reads, and as `labels` [R, T] what each of its outputs shall predict."""
    labels = batch.pop("labels")
    wanted = labels != IGNORE
    logits = model(**batch, use_cache=False).logits
    losses = cross_entropy(logits[wanted].float(), labels[wanted], reduction="none").double()
    sums = losses.new_zeros(len(labels)).index_add(0, wanted.nonzero()[:, 0], losses)
    return np.asarray(sums.cpu().numpy())
