"""How long a worker's step takes, measured on a few layers of random weights: by what `auto` is chosen.

A model of the base's configuration with one layer of each type, and with two, goes forward and back over a micro-batch
of the data's lengths as training would lay it in rows; what one layer more takes is the difference, the rest is
arithmetic. Neither weights nor records are read.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from trl.trainer.utils import add_fused_lm_head

from fettle.data.batches import collate
from fettle.data.tokens import TokenExample
from fettle.models.attention import Attention, plain
from fettle.models.precision import LOW
from fettle.models.record_attention import attend_by_record
from fettle.needs.few_layers import checkpoint_layers, cycle_of, few_layers
from fettle.needs.trace import config_of
from fettle.pipeline.trial import Trial
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import Precision
from fettle.train.logprobs import label_logprobs

_REPEATS, _ENOUGH_S = 3, 1.0
_LONG_S = 2.0
"""Beside a pass as long as this, what only the first one does takes no time."""


def seconds_of(trial: Trial) -> float | None:
    """Of the passes of a worker's step. None where it cannot be made: too little memory, no such attention, code that
    does not run on random weights."""
    torch.set_num_threads(trial.threads)
    try:
        config = config_of(trial.config)
        total, cycle = int(config.get_text_config().num_hidden_layers), cycle_of(config)
        if total <= 2 * cycle:
            return trial.accumulate * _measured(trial, total)
        one, two = _measured(trial, cycle), _measured(trial, 2 * cycle)
        return trial.accumulate * (one + max(0.0, two - one) * (total - cycle) / cycle)
    except Exception:  # whatever code of whatever architecture makes of it
        return None
    finally:
        if trial.on_gpu:
            torch.cuda.empty_cache()


def _measured(trial: Trial, depth: int) -> float:
    """Seconds of one micro-batch: the best of a few, after one that nobody counts unless it is long."""
    device = "cuda" if trial.on_gpu else "cpu"
    model = _model(trial.config, depth, trial.adapter, trial.precision, trial.attention, device)
    if trial.checkpointing:
        checkpoint_layers(model, trial.adapter)
    else:
        plain(model).gradient_checkpointing_disable()
    vocabulary = int(plain(model).config.get_text_config().vocab_size)
    batch = collate(_records(trial, vocabulary), max_length=trial.max_length, packing=trial.packing, pad_id=0)
    batch = {name: value.to(device) for name, value in batch.items()}
    taken: list[float] = []
    while len(taken) < 2 or (len(taken) < _REPEATS and sum(taken) < _ENOUGH_S):
        began = time.perf_counter()
        low = LOW.get(trial.precision)
        with torch.autocast(device, dtype=low) if low is not None else contextlib.nullcontext():
            loss = -label_logprobs(model, batch, batch["labels"], vocabulary).sum()
        loss.backward()
        if trial.on_gpu:
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
        model.zero_grad(set_to_none=True)
        if taken[0] > _LONG_S:
            break
    return min(taken[1:] or taken)


@lru_cache(maxsize=2)
def _model(
    config: str, depth: int, adapter: AdapterSpec, precision: Precision, attention: Attention | None, device: str
) -> Any:
    """Of so many layers; the two depths stay while other keys are tried."""
    model = few_layers(config_of(config), depth, adapter, precision, attention, device=device)
    if device == "cpu":
        attend_by_record(model)
    add_fused_lm_head(plain(model), outputs=("log_probs",))
    return model.train()


def _records(trial: Trial, vocabulary: int) -> Sequence[TokenExample]:
    """Of one micro-batch: every `accumulate`-th; the last tokens of each bear loss."""
    draw = np.random.default_rng(0)
    found = []
    for length in trial.lengths[:: trial.accumulate]:
        mask = np.zeros(length, dtype=bool)
        mask[min(length - 1, int(length * (1 - trial.loss))) :] = True
        found.append(TokenExample(draw.integers(1, vocabulary, length, dtype=np.int32), mask))
    return found
