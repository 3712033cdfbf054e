"""Answers that transformers writes: several at a time, each with its own sampling, its own end, and its text as it
comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from transformers import LogitsProcessor, StoppingCriteria

Finish = Literal["stop", "length"]
Decode = Callable[[list[int]], str]
_BROKEN = "\ufffd"  # what stands for a character whose last bytes are another token's


@dataclass(eq=False)
class Row:
    """One answer. temperature: 0 is greedy. seeds: of its own draws, so that they depend on nothing beside it. tell: is
    given each new piece of its text, and once, with the last, why it ended. is_left: nobody waits for it any more."""

    prompt: np.ndarray
    max_tokens: int
    temperature: float
    top_p: float
    seeds: Sequence[int]
    stops: Sequence[str]
    tell: Callable[[str, Finish | None], None]
    is_left: bool = False
    num_tokens: int = 0
    finish: Finish | None = None
    _ids: list[int] = field(default_factory=list)
    _told: int = 0

    def __post_init__(self) -> None:
        self._dice = np.random.default_rng([one % 2**64 for one in self.seeds])
        self._held = max((len(stop) - 1 for stop in self.stops), default=0)

    def __len__(self) -> int:
        return len(self.prompt) + self.max_tokens

    @property
    def is_done(self) -> bool:
        """Whether no more tokens are wanted."""
        return self.is_left or self.finish is not None

    def drawn(self, logits: torch.Tensor) -> torch.Tensor:
        """Logits [V] whose largest is a token drawn as asked: Gumbel noise on them (Maddison et al. 2014,
        arXiv:1411.0030, section 2)."""
        if not self.temperature:
            return logits
        logits = logits.float() / self.temperature
        if self.top_p < 1:
            probs, order = logits.softmax(-1).sort(descending=True)
            logits = logits.index_fill(0, order[probs.cumsum(-1) - probs >= self.top_p], -torch.inf)
        noise = torch.from_numpy(self._dice.gumbel(size=len(logits)))
        return logits + noise.to(logits)

    def take(self, token: int, end_ids: Sequence[int], decode: Decode) -> None:
        """One more token, which may end it."""
        self.num_tokens += 1
        if token in end_ids:
            self.finish = "stop"
        else:
            self._ids.append(token)
            self.finish = "length" if self.num_tokens >= self.max_tokens else None
        text = decode(self._ids)
        ends = [found for stop in self.stops if (found := text.find(stop)) >= 0]
        if ends:
            text, self.finish = text[: min(ends)], "stop"
        if self.finish is None:  # what may yet become another character, or a stop, waits
            text = text.rstrip(_BROKEN)
            text = text[: max(0, len(text) - self._held)]
        self.tell(text[self._told :], self.finish)
        self._told = max(self._told, len(text))


class Drawing(LogitsProcessor):
    """Lets greedy decoding take what each row draws."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        return torch.stack([row.drawn(logits) for row, logits in zip(self._rows, scores, strict=True)])


class Watching(StoppingCriteria):
    """Hands each row its tokens as they come, and ends those that are done."""

    def __init__(self, rows: Sequence[Row], end_ids: Sequence[int], decode: Decode) -> None:
        self._rows, self._end_ids, self._decode = rows, end_ids, decode

    def __call__(self, input_ids: Any, scores: Any, **unused: Any) -> Any:
        for row, token in zip(self._rows, input_ids[:, -1].tolist(), strict=True):
            if not row.is_done:
                row.take(token, self._end_ids, self._decode)
        return torch.tensor([row.is_done for row in self._rows], device=input_ids.device)
