"""The task of classifiers: a linear head reads the last token of each text; cross-entropy over the labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from fettle.data.batches import Encoded, OfParts, collate_parts
from fettle.errors import UserError
from fettle.models.heads import load_headed
from fettle.models.label_rows import carry_over, head_rows, labels_in, name_labels
from fettle.train.param_groups import LayerRates
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

    def load(self, base: Path, dtype: torch.dtype) -> PreTrainedModel:
        """The body in `base` under a head with a row for each label: that of the same label where `base` is a
        classifier that knows it, else a fresh one."""
        earlier_labels, earlier = labels_in(base), head_rows(base)
        is_same = earlier_labels == self.labels
        model: Any = load_headed(base, len(self.labels), dtype, self.seed, keep_head=is_same)
        if earlier is not None and not is_same:
            with whole([model.score.weight]), torch.no_grad():
                rows = carry_over(model.score.weight, self.labels, earlier, earlier_labels)
                model.score.weight.copy_(rows)
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

    def collate(self, examples: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """`input_ids`, `position_ids`, each [R, T], of packed rows; `ends` [N, 2], where each text ends in them; and
        `labels` [N], the row of the head that should score highest there."""
        of_parts = cast(Sequence[OfParts], examples)
        batch = collate_parts(of_parts, max_length=self.max_length, packing=self.packing, pad_id=self.pad_id)
        labels = torch.tensor([int(cast(Any, example.values)[0]) for example in of_parts], dtype=torch.int64)
        return {key: batch[key] for key in ("input_ids", "position_ids", "ends")} | {"labels": labels}

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
        scores = model(input_ids=inputs["input_ids"], position_ids=inputs["position_ids"])
        row, column = inputs["ends"].unbind(-1)
        found: torch.Tensor = scores[row, column].float()
        return found
