"""Frozen weights that stay in memory: the next stage of the same process that trains an adapter over the same base is
given a model of its own whose weights are those that lie there already."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KeptBases = dict[tuple[str, ...], "PreTrainedModel"]
_bases: ContextVar[KeptBases | None] = ContextVar("bases", default=None)


@contextmanager
def frozen_from(bases: KeptBases | None) -> Iterator[None]:
    """What is loaded inside is not changed by who loads it, and may be of `bases`; None: it is loaded anew."""
    token = _bases.set(bases)
    try:
        yield
    finally:
        _bases.reset(token)


def kept(key: tuple[str, ...], load: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """The model that `load` gives; inside `frozen_from` one with modules of its own over the weights of the first."""
    bases = _bases.get()
    if bases is None:
        return load()
    if key not in bases:
        bases.clear()  # one at a time: another base may need all the room there is
        bases[key] = load()
    first = bases[key]
    weights = {id(one): one for one in (*first.parameters(), *first.buffers())}
    model: PreTrainedModel = copy.deepcopy(first, weights)
    return model
