"""The task of reward models: of two answers the preferred one shall score higher (Bradley & Terry 1952).

A record's answers are scored together, and each record counts once, however many answers it has: its loss is the mean
over their K-choose-2 pairs (Ouyang et al. 2022, arXiv:2203.02155, equation 1).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from fettle.data.batches import IGNORE, Encoded, OfParts, collate_parts, scored_at
from fettle.data.encoder_batches import collate_first
from fettle.models.heads import load_headed, reads_first
from fettle.models.stored import Stored
from fettle.train.pairs import pairs_of
from fettle.train.task import HELDOUT


def bradley_terry(
    better: torch.Tensor, worse: torch.Tensor, margins: torch.Tensor, centre: float = 0.0
) -> torch.Tensor:
    """Loss of each pair in nats: -log σ(r_better - r_worse - m) + centre (r_better + r_worse)². All are [P] float.

    Without margins Ouyang et al. 2022, equation 1; the margin is Touvron et al. 2023 (Llama 2, arXiv:2307.09288,
    equation 2); the last term, under which rewards stay around zero, is Eisenstein et al. 2023 (arXiv:2312.09244,
    section 2).
    """
    return -logsigmoid(better - worse - margins) + centre * (better + worse).square()


_READ = ("input_ids", "position_ids", "attention_mask")


class RewardTask:
    """The score of a head at each answer's last token, an encoder's at the first. max_length, packing: of the rows.
    pad_id: a token that fills them. margin: whether values are by how much answers differ. centre: of `bradley_terry`.
    seed: of the head."""

    kind: Literal["reward"] = "reward"
    unit = "record"

    def __init__(
        self, *, max_length: int, packing: bool, pad_id: int, margin: bool = False, centre: float = 0.0, seed: int = 0
    ) -> None:
        self.max_length, self.packing, self.pad_id = max_length, packing, pad_id
        self.margin, self.centre, self.seed = margin, centre, seed
        self._reads_first = False

    def load(self, base: Path, dtype: Stored) -> PreTrainedModel:
        """The body of the model in `base` under a head of one row."""
        model = load_headed(base, 1, dtype, self.seed)
        self._reads_first = reads_first(model)
        model.config.get_text_config().pad_token_id = self.pad_id
        return model

    def prepare(self, trainer: Any) -> None:
        """Nothing."""

    def collate(self, examples: Sequence[Encoded], step: int = HELDOUT) -> dict[str, torch.Tensor]:
        """`input_ids`, `position_ids` [R, T]; `ends` [N, 2]: row and column at which each answer is scored; `better`,
        `worse` [P] int64: which answers each pair is of; `margins`, `weights` [P] float32: by how much the better one
        shall be better, and the pair's share of its record; `labels`: 0 for each record that has a pair.

        An answer is scored at its last token that is not `pad_id`, as transformers' own sequence classifiers are: where
        the end-of-text token is the padding too, that is the token before it. By an encoder at its first token: then
        `collate_first`'s take the place of the first three.
        """
        of_parts = cast(Sequence[OfParts], examples)
        pairs: list[tuple[int, int]] = []
        margins: list[float] = []
        weights: list[float] = []
        labels: list[int] = []
        first = 0
        for example in of_parts:
            assert example.values is not None
            found = pairs_of(example.values)
            pairs += [(first + i, first + j) for i, j in found]
            margins += [float(example.values[i] - example.values[j]) if self.margin else 0.0 for i, j in found]
            weights += [1 / len(found) for _ in found]
            labels.append(0 if found else IGNORE)
            first += len(example.parts)
        better, worse = torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2).unbind(1)
        return self._rows(of_parts) | {
            "better": better,
            "worse": worse,
            "margins": torch.tensor(margins, dtype=torch.float32),
            "weights": torch.tensor(weights, dtype=torch.float32),
            "labels": torch.tensor(labels, dtype=torch.int64),
        }

    def _rows(self, examples: Sequence[OfParts]) -> dict[str, torch.Tensor]:
        if self._reads_first:
            return collate_first(examples, max_length=self.max_length, pad_id=self.pad_id)
        batch = collate_parts(examples, max_length=self.max_length, packing=self.packing, pad_id=self.pad_id)
        return {key: batch[key] for key in ("input_ids", "position_ids")} | {"ends": scored_at(batch, self.pad_id)}

    def loss_sum(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Sum over the records of the mean loss of their pairs, in nats, a scalar."""
        rewards = self._rewards(model, inputs)
        return self._loss_sum(rewards[inputs["better"]], rewards[inputs["worse"]], inputs)

    def measures(self, model: Any, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Sums over the records: the loss; accuracy, the share of their pairs that are ranked right (half where both
        answers score the same); reward_margin, by how much the better one scores higher; reward, the mean score."""
        rewards = self._rewards(model, inputs)
        better, worse, weights = rewards[inputs["better"]], rewards[inputs["worse"]], inputs["weights"]
        right = (better > worse).float() + (better == worse).float() / 2
        return {
            "loss": self._loss_sum(better, worse, inputs),
            "accuracy": (weights * right).sum(),
            "reward_margin": (weights * (better - worse)).sum(),
            "reward": (weights * (better + worse) / 2).sum(),
        }

    def _rewards(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The score of each answer, [N] float32."""
        scores = model(**{name: inputs[name] for name in _READ if name in inputs})
        row, column = inputs["ends"].unbind(1)
        return scores[row, column, 0]

    def _loss_sum(self, better: torch.Tensor, worse: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return (inputs["weights"] * bradley_terry(better, worse, inputs["margins"], self.centre)).sum()
