"""The task of masked language models: hidden tokens are predicted from those around them.

BERT: Devlin et al. 2018, arXiv:1810.04805, section 3.1, task 1; the choice is made anew each step, as in RoBERTa (Liu
et al. 2019, arXiv:1907.11692, section 4.1).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from fettle.data.batches import IGNORE, Encoded
from fettle.data.encoder_batches import collate_encoder
from fettle.data.tokens import content_hash
from fettle.models.base import load_tokenizer, load_weights
from fettle.models.packed import first_position
from fettle.models.stored import Stored
from fettle.train.task import HELDOUT


@dataclass(frozen=True)
class Masking:
    """Which tokens are hidden, and by what. rate: their share. mask_id: of [MASK]. special: ids that never are hidden,
    bool [vocabulary]."""

    rate: float
    mask_id: int
    special: np.ndarray
    seed: int

    def hide(self, example: Encoded, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(ids with some hidden, labels: the hidden ones' ids, IGNORE elsewhere) of an example, int64 [T] each.

        `rate` of the tokens that bear loss, rounded, at least one; of them 80 % become [MASK], 10 % a random token that
        is not special, 10 % stay. The same for the same (seed, step, token ids), so that nothing else changes it.
        """
        ids = example.input_ids.astype(np.int64)
        labels = np.full(len(ids), IGNORE)
        may_hide = np.flatnonzero(example.loss_mask & ~self.special[ids])
        if not len(may_hide):
            return ids, labels
        dice = np.random.default_rng([self.seed, step + 1, content_hash(example)])  # HELDOUT is -1
        hidden = dice.permutation(may_hide)[: max(1, round(self.rate * len(may_hide)))]
        labels[hidden] = ids[hidden]
        fate = dice.random(len(hidden))
        others = np.flatnonzero(~self.special)
        ids[hidden[fate < 0.8]] = self.mask_id
        is_random = (fate >= 0.8) & (fate < 0.9)
        ids[hidden[is_random]] = dice.choice(others, is_random.sum())
        return ids, labels


def masking_of(tokenizer: PreTrainedTokenizerBase, rate: float, seed: int) -> Masking:
    """The masking of a tokenizer that has a mask token."""
    special = np.zeros(len(tokenizer), bool)
    special[list(tokenizer.all_special_ids)] = True
    assert tokenizer.mask_token_id is not None
    return Masking(rate, int(tokenizer.mask_token_id), special, seed)


class MaskedTask:
    """rate: share of the tokens that is hidden. max_length, packing: of the rows. pad_id: a token that fills them.
    seed: of the masks."""

    kind: Literal["model"] = "model"
    unit = "token"

    def __init__(self, *, rate: float, max_length: int, packing: bool, pad_id: int, seed: int) -> None:
        self.rate, self.max_length, self.packing, self.pad_id, self.seed = rate, max_length, packing, pad_id, seed
        self.masking: Masking
        self._first_position = 0
        self._hidden: torch.Tensor | None = None  # [R, T] bool, while a forward pass is under way

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The masked language model in `base`, whose head is given the hidden places alone, a sixth of its work."""
        self.masking = masking_of(load_tokenizer(base), self.rate, self.seed)
        model = load_weights(base, dtype)
        self._first_position = first_position(model.config)
        model.generation_config = GenerationConfig()  # TRL notes the padding token there; it is saved nowhere
        model.base_model.register_forward_hook(self._keep_hidden)
        return model

    def prepare(self, trainer: Any) -> None:
        """Nothing."""

    def collate(self, examples: Sequence[Encoded], step: int = HELDOUT) -> dict[str, torch.Tensor]:
        """As `collate_encoder`, with some tokens hidden, the same ones each time a step comes to the same examples."""
        found = [self.masking.hide(example, step) for example in examples]
        return collate_encoder(
            [ids for ids, _ in found],
            [labels for _, labels in found],
            max_length=self.max_length,
            packing=self.packing,
            pad_id=self.pad_id,
            first_position=self._first_position,
        )

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the negative log-probabilities of the hidden tokens, in nats, a scalar."""
        labels = inputs["labels"]
        self._hidden = labels != IGNORE
        logits = model(**{key: value for key, value in inputs.items() if key != "labels"}).logits
        return cross_entropy(logits[0].float(), labels[self._hidden], reduction="sum")

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss."""
        return {"loss": self.loss_sum(model, inputs)}

    def _keep_hidden(self, body: torch.nn.Module, given: Any, output: Any) -> Any:
        """The body's output, of which the head sees the hidden places only, as one row, [1, hidden, width]."""
        output.last_hidden_state = output.last_hidden_state[self._hidden][None]
        return output
