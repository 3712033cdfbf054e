"""What transformers and PEFT answer to fixed prompts, and the log-probabilities of all their tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fettle.evaluate.parity import Reference
from fettle.models.generate import generate


def reference(
    model: Any, prompts: Sequence[np.ndarray], *, end_ids: Sequence[int], pad_id: int, max_new_tokens: int
) -> Reference:
    """Greedy answers of a causal model in evaluation (`load_speaker`). prompts: int [T] each, of one token at least."""
    said = generate(model, prompts, end_ids=end_ids, pad_id=pad_id, max_new_tokens=max_new_tokens)
    texts = [(*prompt.tolist(), *ids) for prompt, (ids, _) in zip(prompts, said, strict=True)]
    return Reference(
        texts=tuple(texts),
        begins=tuple(len(prompt) for prompt in prompts),
        logprobs=tuple(_logprobs(model, text) for text in texts),
        dtype=str(model.dtype).removeprefix("torch."),
    )


@torch.no_grad()
def _logprobs(model: Any, text: Sequence[int]) -> tuple[float, ...]:
    """Of every token but the first, in nats; by itself, so that no padding is beside it."""
    ids = torch.tensor([text], device=model.device)
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
    return tuple(logits.log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0].tolist())
