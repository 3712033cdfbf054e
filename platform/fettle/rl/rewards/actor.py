"""A reward model in a Ray actor of its own, which is made anew and asked again where it died."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from fettle.data.record import Record
from fettle.errors import FettleError
from fettle.output import print_into
from fettle.rl.rewards.model import RewardModel
from fettle.rl.rollout import Rollout

_TRIES = 3


class RewardActor:
    """Lives in a process of its own; made by ActorScorer."""

    def __init__(self, folder: Path, threads: int, device: str, log: Path) -> None:
        print_into(log)
        torch.set_num_threads(threads)
        self._model = RewardModel(folder, device=device)

    def process(self) -> int:
        """The process's number; answers when the model is there."""
        return os.getpid()

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        """As RewardModel's."""
        return self._model.score(rollouts, records)


class ActorScorer:
    """The score of the reward model in a folder. name: as the recipe calls it. gpus: 0 or 1. timeout_s: for an
    answer."""

    def __init__(
        self,
        folder: Path,
        name: str,
        *,
        logs: Path,
        threads: int = 1,
        gpus: int = 0,
        timeout_s: float = 600,
    ) -> None:
        self._folder, self._name, self._log = folder, name, logs / f"reward-{name.rpartition('/')[2]}.log"
        self._threads, self._device = threads, "cuda" if gpus else "cpu"
        env = {"OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        self._options: dict[str, Any] = {"num_cpus": 0, "num_gpus": gpus, "runtime_env": {"env_vars": env}}
        self._timeout_s = timeout_s
        self._actor = self._made()

    @property
    def process(self) -> int:
        """The number of the process it lives in."""
        return int(ray.get(self._actor.process.remote(), timeout=self._timeout_s))

    def score(self, rollouts: Sequence[Rollout], records: Sequence[Record]) -> list[float]:
        """Raises FettleError where it died three times, did not answer in time, or with its own reason."""
        last: Exception | None = None
        for _ in range(_TRIES):
            try:
                found = ray.get(self._actor.score.remote(rollouts, records), timeout=self._timeout_s)
                return [float(value) for value in found]
            except RayActorError as error:
                last = error
                self._actor = self._made()
            except GetTimeoutError:
                raise FettleError(
                    f"the reward model {self._name} did not answer within {self._timeout_s:g} s; see {self._log}"
                ) from None
            except RayTaskError as error:
                cause = error.cause
                if isinstance(cause, FettleError):
                    raise cause from error
                raise FettleError(f"the reward model {self._name} could not score: {cause}; see {self._log}") from error
        said = str(last).splitlines()[0]
        raise FettleError(f"the reward model {self._name} died {_TRIES} times ({said}); see {self._log}") from last

    def close(self) -> None:
        """Ends its process."""
        ray.kill(self._actor)

    def _made(self) -> Any:
        kind: Any = ray.remote(RewardActor)
        return kind.options(**self._options).remote(self._folder, self._threads, self._device, self._log)
