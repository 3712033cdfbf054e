"""Models that read texts and write none, by transformers: scores of a head, and embeddings. Token ids in, numbers out.

Letters: R texts, T tokens of the longest, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification

from fettle.data.batches import collate_parts, scored_at
from fettle.data.encoder_batches import collate_first
from fettle.data.tokens import TokenExample
from fettle.engine.env import EngineOptions
from fettle.errors import UserError
from fettle.models.adapters import resume
from fettle.models.base import dtype_of, load_weights
from fettle.models.heads import check_headed, load_headed, reads_first
from fettle.models.label_rows import name_labels
from fettle.models.stored import load
from fettle.serving.heads.served import ServedHead


class HeadModel:
    """The scores of a classifier's or a reward model's head. is_known: the head is one that fettle trains, whose model
    is asked as in its training; any other reads as transformers has it."""

    def __init__(self, served: ServedHead, options: EngineOptions, pad_id: int) -> None:
        """Raises UserError for an adapter over a model whose head fettle does not know."""
        self._pad_id, self._longest = pad_id, served.max_model_len
        dtype = dtype_for(served, options)
        try:
            check_headed(served.base)
            self.is_known = True
        except UserError:
            if served.adapter is not None:
                raise
            self.is_known = False
        model: Any
        if self.is_known:
            model = load_headed(served.base, served.rows, dtype, seed=0)
            name_labels(model, served.labels or ("LABEL_0",))  # by which an adapter's rows find their places
            self._reads_first = reads_first(model)
        else:
            model = load(AutoModelForSequenceClassification, served.base, dtype)
            self._reads_first = True
        model.config.get_text_config().pad_token_id = pad_id
        self.is_multi_label = model.config.problem_type == "multi_label_classification"
        self.vocabulary = _vocabulary(model)
        if served.adapter is not None:
            model = resume(model, served.adapter)
        self._model = _in_place(model)

    @torch.no_grad()
    def scores(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each text, int [T], float32 [rows]."""
        batch = _rows(texts, self._longest, self._pad_id, reads_first=self._reads_first)
        ends = batch.pop("ends")
        given = {key: value.to(self._model.device) for key, value in batch.items()}
        if not self.is_known:
            return list(self._model(**given).logits.float().cpu().numpy())
        row, column = ends.unbind(1)
        return list(self._model(**given)[row, column].float().cpu().numpy())


class EmbeddingModel:
    """One vector of length 1 for each text: an encoder's token vectors, averaged, or the first of them."""

    def __init__(self, served: ServedHead, options: EngineOptions, pad_id: int) -> None:
        self._pad_id, self._longest, self._pooling = pad_id, served.max_model_len, served.pooling
        dtype = dtype_for(served, options)
        model: Any
        if served.adapter is None:
            model = load(AutoModel, served.base, dtype)
        else:
            model = resume(load_weights(served.base, dtype), served.adapter).get_base_model()
            model = model.base_model
        self.vocabulary = _vocabulary(model)
        self._model = _in_place(model)
        self.width = int(model.config.hidden_size)

    @torch.no_grad()
    def embeddings(self, texts: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Of each text, int [T], float32 [D]."""
        batch = _rows(texts, self._longest, self._pad_id, reads_first=True)
        del batch["ends"]
        given = {key: value.to(self._model.device) for key, value in batch.items()}
        hidden = self._model(**given).last_hidden_state.float()  # [R, T, D]
        if self._pooling == "first":
            pooled = hidden[:, 0]
        else:
            weights = given["attention_mask"][..., None].float()
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        return list(torch.nn.functional.normalize(pooled, dim=-1).cpu().numpy())


def _rows(texts: Sequence[np.ndarray], longest: int, pad_id: int, *, reads_first: bool) -> dict[str, torch.Tensor]:
    """A row for each text, [R, T], and `ends` [R, 2], the places at which they are read."""
    examples = [
        TokenExample(ids, np.zeros(len(ids), bool), np.array([len(ids)]), np.zeros(1, np.float32)) for ids in texts
    ]
    if reads_first:
        return collate_first(examples, max_length=longest, pad_id=pad_id)
    batch = collate_parts(examples, max_length=longest, packing=False, pad_id=pad_id)
    return {key: batch[key] for key in ("input_ids", "position_ids")} | {"ends": scored_at(batch, pad_id)}


def dtype_for(served: ServedHead, options: EngineOptions) -> torch.dtype:
    """float32 on a CPU and the weights' own type on a GPU, unless told otherwise."""
    if options.dtype != "auto":
        found: torch.dtype = getattr(torch, options.dtype)
        return found
    return dtype_of(served.base) if torch.cuda.is_available() else torch.float32


def _in_place(model: Any) -> Any:
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _vocabulary(model: Any) -> int:
    return int(model.get_input_embeddings().num_embeddings)
