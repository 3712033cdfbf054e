"""Rewards from a reward model, in this process: the score of the last token of prompt and answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fettle.artifact import is_artifact, read_artifact
from fettle.data.batches import share_out
from fettle.data.coder import Coder
from fettle.data.frame import frame_of
from fettle.data.record import Record
from fettle.data.tokens import TokenExample
from fettle.errors import UserError
from fettle.models import adapters
from fettle.models.base import base_and_adapter, load_tokenizer, positions_of
from fettle.models.heads import own_rows
from fettle.models.packed import why_not_packed
from fettle.recipe.adapter import FULL
from fettle.rl.rollout import Rollout
from fettle.train.reward import RewardTask

# A causal model is given the first two, an encoder the first and the last.
_READ = ("input_ids", "position_ids", "attention_mask")


class RewardModel:
    """The reward model in a folder: an artifact of full weights or of an adapter, or a model with a head of one row.

    Prompt and answer are rendered by *its* tokenizer and chat template as in its training, with the token that ends an
    answer, even where the answer was broken off; what is longer than its positions is cut at the end, as there.
    """

    def __init__(
        self, folder: Path, *, dtype: torch.dtype = torch.float32, device: str = "cpu", tokens_per_batch: int = 8192
    ) -> None:
        """dtype: of the body; the head is in float32. Raises UserError where the folder holds another kind."""
        if is_artifact(folder) and (kind := read_artifact(folder).kind) != "reward":
            raise UserError(f"this is of kind {kind}, which scores no answers", file=folder, expected="a reward model")
        base, adapter = base_and_adapter(folder)
        if adapter is None and own_rows(base) != 1:
            raise UserError("this model has no head of one row", file=folder, expected="a reward model")
        self._tokenizer = load_tokenizer(folder)
        self._frame = frame_of(self._tokenizer)
        self._coder = Coder(self._tokenizer, is_framed=len(self._frame) > 0)
        self._max_length, self._tokens_per_batch, self._device = positions_of(base), tokens_per_batch, device
        self._task = RewardTask(
            max_length=self._max_length,
            packing=why_not_packed(base, FULL) is None,
            pad_id=self._tokenizer.pad_token_id or 0,
        )
        model: Any = self._task.load(base, dtype)
        if adapter is not None:
            model = adapters.resume(model, folder)
        self._model = model.to(device).eval()

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        """The score of each rollout; records: of the iteration's prompts, at `rollout.prompt`."""
        return self.scores([records[one.prompt] for one in rollouts], [one.text for one in rollouts])

    @torch.no_grad()
    def scores(self, prompts: Sequence[Record], answers: Sequence[str]) -> list[float]:
        """The score of an answer to each prompt."""
        pairs = zip(prompts, answers, strict=True)
        examples = self._encoded([_answered(prompt, answer) for prompt, answer in pairs])
        lengths = [len(one.input_ids) for one in examples]
        found = np.zeros(len(examples))
        for places in share_out(lengths, max(1, -(-sum(lengths) // self._tokens_per_batch))):
            if not places:
                continue
            batch = self._task.collate([examples[place] for place in places])
            row, column = batch["ends"].unbind(1)
            read = {key: batch[key].to(self._device) for key in _READ if key in batch}
            scores = self._model(**read)[row, column, 0]
            found[places] = scores.double().cpu().numpy()
        return [float(value) for value in found]

    def _encoded(self, records: list[Record]) -> list[TokenExample]:
        found = []
        room = self._max_length - len(self._frame)
        for ids, mask in self._coder.code(records):
            ids, mask = self._frame.around(ids[:room], mask[:room])
            found.append(TokenExample(ids, mask, np.array([len(ids)]), np.zeros(1, np.float32)))
        return found


def _answered(record: Record, text: str) -> Record:
    """The record of a prompt, answered."""
    return Record(record.file, record.line, prompt=record.prompt, completion=text, tools=record.tools)
