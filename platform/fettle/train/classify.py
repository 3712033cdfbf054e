"""The task of classifiers: a head reads the last token of each text, an encoder's the first; cross-entropy over the
labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from fettle.data.batches import Encoded, OfParts, collate_parts
from fettle.data.encoder_batches import collate_first
from fettle.errors import UserError
from fettle.models.heads import load_headed, reads_first, rows_of
from fettle.models.label_rows import carry_over, head_rows, labels_in, name_labels
from fettle.models.stored import Stored
from fettle.train.param_groups import LayerRates
from fettle.train.task import HELDOUT
from fettle.train.zero import whole


class ClassifyTask:
    """labels: in the order of the head's rows. rates: which layers learn when. max_length, packing: of the rows.
    pad_id: a token that fills them. seed: of a fresh head."""

    kind: Literal["classifier"] = "classifier"
    unit = "record"

    def __init__(
        self, labels: Sequence[str], rates: LayerRates, *, max_length: int, packing: bool, pad_id: int, seed: int
    ) -> None:
        self.labels, self.rates, self.seed = tuple(labels), rates, seed
        self.max_length, self.packing, self.pad_id = max_length, packing, pad_id
        self._reads_first = False

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The body in `base` under a head with a row for each label: that of the same label where `base` is a
        classifier that knows it, else a fresh one."""
        earlier_labels = labels_in(base)
        is_same = earlier_labels == self.labels
        model: Any = load_headed(base, len(self.labels), dtype, self.seed, keep_head=is_same)
        for kind, earlier in ({} if is_same else head_rows(base)).items():
            rows = getattr(rows_of(model), kind)
            with whole([rows]), torch.no_grad():
                rows.copy_(carry_over(rows, self.labels, earlier, earlier_labels))
        self._reads_first = reads_first(model)
        name_labels(model, self.labels)
        model.config.get_text_config().pad_token_id = self.pad_id  # transformers reads the last token that is none
        return model

    def prepare(self, trainer: Any) -> None:
        """Lets the layers that are not yet unfrozen wait.

        Raises UserError where there are fewer steps than parts of gradual unfreezing.
        """
        parts = self.rates.num_gradual + 1
        if trainer.state.max_steps < parts:
            raise UserError(
                f"{trainer.state.max_steps} steps are too few to unfreeze {parts - 1} layers one by one",
                field="unfreeze",
                expected=f"at least {parts} steps: one with the head alone, and one with each layer",
            )
        self.rates.cut_gradients(trainer.model, trainer.state)

    def collate(self, examples: Sequence[Encoded], step: int = HELDOUT) -> dict[str, torch.Tensor]:
        """`input_ids`, `position_ids`, each [R, T], of packed rows; `ends` [N, 2], where each text ends in them; and
        `labels` [N], the row of the head that should score highest there. For an encoder `collate_first`'s in place of
        the first three."""
        of_parts = cast(Sequence[OfParts], examples)
        labels = torch.tensor([int(cast(Any, example.values)[0]) for example in of_parts], dtype=torch.int64)
        return self._rows(of_parts) | {"labels": labels}

    def _rows(self, examples: Sequence[OfParts]) -> dict[str, torch.Tensor]:
        if self._reads_first:
            return collate_first(examples, max_length=self.max_length, pad_id=self.pad_id)
        batch = collate_parts(examples, max_length=self.max_length, packing=self.packing, pad_id=self.pad_id)
        return {key: batch[key] for key in ("input_ids", "position_ids", "ends")}

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum of the negative log-probabilities of the labels, in nats, a scalar."""
        return cross_entropy(self._scores(model, inputs), inputs["labels"], reduction="sum")

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The loss, and the share of texts whose label scores highest."""
        scores = self._scores(model, inputs)
        return {
            "loss": cross_entropy(scores, inputs["labels"], reduction="sum"),
            "accuracy": (scores.argmax(-1) == inputs["labels"]).sum(),
        }

    def _scores(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Of every label for every text, [N, labels] float32."""
        scores = model(**{name: value for name, value in inputs.items() if name not in ("ends", "labels")})
        row, column = inputs["ends"].unbind(-1)
        found: torch.Tensor = scores[row, column].float()
        return found
