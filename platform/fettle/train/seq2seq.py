"""The task of encoder-decoder models: the answer's next token, given the prompt and the answer's tokens before it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from fettle.data.batches import IGNORE, Encoded
from fettle.data.halved_batches import collate_halves
from fettle.data.halves import split
from fettle.models.base import load_weights
from fettle.models.stored import Stored
from fettle.train.spans import SpanCorruption
from fettle.train.task import HELDOUT

_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout", "layerdrop")


class Seq2SeqTask:
    """pad_id: a token that fills rows. corruption: what makes a prompt and an answer of raw text (pretrain); without it
    the records have both (sft)."""

    kind: Literal["model"] = "model"
    unit = "token"
    packing = False

    def __init__(self, *, pad_id: int, corruption: SpanCorruption | None = None) -> None:
        self.pad_id, self.corruption = pad_id, corruption
        self._start_id = 0

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The encoder-decoder model in `base`.

        Its own dropout is on in fine-tuning, as in T5's. It is off in span corruption, as in T5 1.1's: there is text
        enough, and so two workers have the losses of one.
        """
        model = load_weights(base, dtype)
        self._start_id = int(model.config.decoder_start_token_id)
        if self.corruption is not None:
            without_dropout(model)
        return model

    def prepare(self, trainer: Any) -> None:
        """Nothing."""

    def collate(self, examples: Sequence[Encoded], step: int = HELDOUT) -> dict[str, torch.Tensor]:
        """As `collate_halves`; of raw text other spans are taken out at each step."""
        if self.corruption is not None:
            halves = [self.corruption.halves(example, step) for example in examples]
        else:
            halves = [split(example.input_ids, example.loss_mask) for example in examples]
        prompts, answers = [prompt for prompt, _ in halves], [answer for _, answer in halves]
        return collate_halves(prompts, answers, pad_id=self.pad_id, start_id=self._start_id)

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the negative log-probabilities of the labels, in nats, a scalar."""
        labels = inputs["labels"]
        logits = model(**{key: value for key, value in inputs.items() if key != "labels"}, use_cache=False).logits
        wanted = labels != IGNORE
        return cross_entropy(logits[wanted].float(), labels[wanted], reduction="sum")

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss."""
        return {"loss": self.loss_sum(model, inputs)}


def without_dropout(model: torch.nn.Module) -> None:
    """Switches dropout off in place, in layers and in the functions that modules call; the configuration stays."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name in _DROPOUTS:
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
