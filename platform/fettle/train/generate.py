"""A teacher's answers, the same for the same prompt whatever is answered beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedModel

from fettle.models.base import load_tokenizer, positions_of
from fettle.models.generate import Draws, generate
from fettle.recipe.distill import DistillStage
from fettle.train.distill import load_teacher
from fettle.train.job import StageJob, Teacher


class Generator:
    """A teacher that answers prompts; its weights are loaded when it is first asked."""

    def __init__(self, job: StageJob, teacher: Teacher, device: torch.device) -> None:
        spec = job.spec
        assert isinstance(spec, DistillStage) and spec.max_new_tokens is not None
        self._job, self._teacher, self._temperature = job, teacher, spec.temperature
        self._device = device
        self._model: PreTrainedModel | None = None
        self.tokenizer = load_tokenizer(teacher.base, teacher.chat_template)
        self.longest_prompt = positions_of(teacher.base) - spec.max_new_tokens
        self._most = spec.max_new_tokens

    def answer(self, prompts: Sequence[np.ndarray], seeds: Sequence[str]) -> list[tuple[str, int, bool]]:
        """(answer, its tokens, whether it ended by itself) of each prompt, int [T]. seeds: of each one's own draws."""
        made = generate(
            self._load(),
            prompts,
            end_ids=self._teacher.end_ids,
            pad_id=self.tokenizer.pad_token_id or 0,
            max_new_tokens=self._most,
            processors=[Draws(self._temperature, seeds)] if self._temperature is not None else [],
        )
        return [(self._text(ids, said), len(said), ended) for ids, (said, ended) in zip(prompts, made, strict=True)]

    def _text(self, prompt: np.ndarray, ids: list[int]) -> str:
        # A tokenizer may drop the space an answer begins with, unless it is decoded after its prompt.
        before, both = (self._decode([*prompt.tolist(), *more]) for more in ([], ids))
        return both[len(before) :] if both.startswith(before) else self._decode(ids)

    def _decode(self, ids: list[int]) -> str:
        text: Any = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text)

    def _load(self) -> PreTrainedModel:
        if self._model is None:
            self._model = load_teacher(self._teacher, self._job.precision)
            self._model.generation_config = GenerationConfig()  # its own one would fill up what ours leaves open
            self._model.to(self._device)  # type: ignore[arg-type]
        return self._model
