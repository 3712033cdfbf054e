"""Rollout engines that stay: what one stage of reinforcement learning leaves, the next that wants it takes over."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest
import ray

from fettle.rl.engines import Version
from fettle.rl.rollouts import RolloutPool

_ANSWERS_WITHIN_S = 5.0  # an engine that a test has stopped or broken does not, and is not kept


class StandingPool(RolloutPool):
    """The pool, but engines are put aside where it would end them, since one takes eight seconds to start.

    One that was put aside holds the policy of the stage before until the first sync, which every stage begins with.
    """

    _aside: defaultdict[tuple[Any, ...], list[Any]]

    @property
    def _kind(self) -> tuple[Any, ...]:
        return self._model, self._options, tuple(self._adapters.items())

    def _made(self, number: int) -> Any:
        aside = self._aside[self._kind]
        return aside.pop() if aside and not hasattr(self, "processes") else super()._made(number)

    def _have_take(self, number: int) -> Any:
        """Version 0, which is the base, is what a new engine answers by."""
        return ray.put(0.0) if self.version == Version() else super()._have_take(number)

    def close(self) -> None:
        if self._options.takes_weights != "broadcast":  # their channels end with the pool
            asked = {actor.process.remote(): actor for actor in self._actors}
            answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=_ANSWERS_WITHIN_S)
            self._aside[self._kind] += [asked[one] for one in answered if _is_alive(one)]
            self._actors = [actor for one, actor in asked.items() if one not in answered]
        super().close()


def _is_alive(answer: Any) -> bool:
    try:
        ray.get(answer)
    except ray.exceptions.RayActorError:
        return False
    return True


@contextmanager
def standing_engines() -> Iterator[None]:
    """Stages trained in this process meanwhile, and in one cluster, share their engines."""
    aside: defaultdict[tuple[Any, ...], list[Any]] = defaultdict(list)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(StandingPool, "_aside", aside, raising=False)
        patched.setattr("fettle.rl.assembly.RolloutPool", StandingPool)
        yield
    for actor in chain.from_iterable(aside.values()):
        ray.kill(actor)  # Ray itself would first wait for them
