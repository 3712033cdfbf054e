"""Rollouts, and rollouts with what is learned from them: what samplers, rewards, algorithms and the learner share.

Letters: P tokens of the prompt, T tokens of the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np


@dataclass(frozen=True, eq=False)
class Rollout:
    """One sampled answer.

    prompt, sample: position among the iteration's prompts, and among the samples of that prompt. prompt_ids: int32 [P].
    output_ids: int32 [T]. logprobs: float32 [T], of the sampler, in nats. mask: bool [T], False for the environment's
    tokens, which bear no loss and whose log-probabilities are 0. version: of the weights it was sampled with. finish:
    whether the policy ended it (stop) or the limit of new tokens did (length). text: the answer as rewards see it.
    """

    prompt: int
    sample: int
    prompt_ids: np.ndarray
    output_ids: np.ndarray
    logprobs: np.ndarray
    mask: np.ndarray
    version: int
    finish: Literal["stop", "length"]
    text: str

    def __post_init__(self) -> None:
        assert self.output_ids.shape == self.logprobs.shape == self.mask.shape

    @property
    def num_loss_tokens(self) -> int:
        """Tokens that the policy said and that it learns from."""
        return int(np.count_nonzero(self.mask))


@dataclass(frozen=True, eq=False)
class Judged:
    """A rollout with what is learned from it.

    parts: each reward by its name, as it was given. reward: their weighted sum. The rest are float32 [T], 0 where the
    mask is False, and None until they are worked out or where they are not wanted. old: log-probabilities of the
    learner's policy before the iteration's first step; None where that is the sampler's policy. reference: of the
    reference. values: the critic's, of the state before each token. advantages, returns: of each token. weights: what
    its loss is multiplied by before the step's sum is divided by the number of the step's loss-bearing tokens.
    """

    rollout: Rollout
    parts: dict[str, float]
    reward: float
    old: np.ndarray | None = None
    reference: np.ndarray | None = None
    values: np.ndarray | None = None
    advantages: np.ndarray | None = None
    returns: np.ndarray | None = None
    weights: np.ndarray | None = None

    @cached_property
    def input_ids(self) -> np.ndarray:
        """Prompt and answer, int32 [P + T]."""
        return np.concatenate([self.rollout.prompt_ids, self.rollout.output_ids])

    @cached_property
    def loss_mask(self) -> np.ndarray:
        """The mask with False for the prompt, bool [P + T]."""
        return np.concatenate([np.zeros(len(self.rollout.prompt_ids), dtype=bool), self.rollout.mask])

    @property
    def policy(self) -> np.ndarray:
        """Log-probabilities of the policy that is about to learn; the sampler's, where no others were worked out."""
        return self.rollout.logprobs if self.old is None else self.old


def prompts_of(batch: Sequence[Judged]) -> np.ndarray:
    """The prompt of each answer, int64 [N]: which answers belong together."""
    return np.array([one.rollout.prompt for one in batch], dtype=np.int64)
