"""The task of causal language models: the next token's log-probability, summed over the loss-bearing ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel
from trl.trainer.utils import add_fused_lm_head

from fettle.data.batches import Encoded, collate
from fettle.models.base import load_weights
from fettle.models.stored import Stored
from fettle.train.logprobs import in_few_shapes, label_logprobs
from fettle.train.neftune import EmbeddingNoise
from fettle.train.task import HELDOUT


class CausalTask:
    """What pretrain and sft share. max_length, packing: of the rows. pad_id: a token that fills them. neftune:
    alpha of the noise on the embeddings."""

    kind: Literal["model"] = "model"
    unit = "token"

    def __init__(self, *, max_length: int, packing: bool, pad_id: int, neftune: float | None = None) -> None:
        self.max_length, self.packing, self.pad_id = max_length, packing, pad_id
        self.noise = EmbeddingNoise(neftune) if neftune is not None else None
        self._vocab = 0

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The language model in `base`, whose head can also give log-probabilities alone."""
        model = load_weights(base, dtype)
        self._vocab = int(model.config.get_text_config().vocab_size)
        add_fused_lm_head(model, outputs=("log_probs",))
        if self.noise is not None:
            self.noise.attach(model)
        return model

    def prepare(self, trainer: Any) -> None:
        """Nothing."""

    def collate(self, examples: Sequence[Encoded], step: int = HELDOUT) -> dict[str, torch.Tensor]:
        """`input_ids`, `labels`, `position_ids`, each [R, T], of packed rows."""
        return collate(examples, max_length=self.max_length, packing=self.packing, pad_id=self.pad_id)

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the negative log-probabilities of the labels, in nats, a scalar."""
        if self.noise is not None:
            read, _ = in_few_shapes(model, inputs, inputs["labels"])  # as wide as the embeddings will be
            self.noise.expect(read["position_ids"])
        return -label_logprobs(model, inputs, inputs["labels"], self._vocab).sum()

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss."""
        return {"loss": self.loss_sum(model, inputs)}
