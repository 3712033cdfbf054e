"""Frozen weights that are loaded once: the next stage of the same process that trains an adapter over the same base is
given a model of its own whose weights are those that lie there already; other processes of the machine map the same
file of them into their memory."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING

from fettle.artifact import locked

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Key = tuple[str, ...]
Load = Callable[[Path], "PreTrainedModel"]


class KeptBases:
    """What a process keeps for its next stage. folder: where the processes that train side by side find weights in the
    type that they train over; None: there is but this process, and none of its own need lie on disk."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.models: dict[Key, PreTrainedModel] = {}


_bases: ContextVar[KeptBases | None] = ContextVar("bases", default=None)


@contextmanager
def frozen_from(bases: KeptBases | None) -> Iterator[None]:
    """What is loaded inside is not changed by who loads it, and may be of `bases`; None: it is loaded anew."""
    token = _bases.set(bases)
    try:
        yield
    finally:
        _bases.reset(token)


def kept(key: Key, folder: Path, load: Load, *, is_mapped: bool) -> PreTrainedModel:
    """The model that `load` gives of a folder; inside `frozen_from` one with modules of its own over the weights of the
    first. is_mapped: whether transformers leaves the folder's weights in their file, which the machine then has once in
    memory however many processes read it; it does where it need not convert them."""
    bases = _bases.get()
    if bases is None:
        return load(folder)
    if key not in bases.models:
        bases.models.clear()  # one at a time: another base may need all the room there is
        if not is_mapped and bases.folder is not None:
            folder = _converted(key, folder, load, bases.folder)
        bases.models[key] = load(folder)
    first = bases.models[key]
    weights = {id(one): one for one in (*first.parameters(), *first.buffers())}
    model: PreTrainedModel = copy.deepcopy(first, weights)
    return model


def _converted(key: Key, folder: Path, load: Load, into: Path) -> Path:
    """A folder with the same model, its weights as `load` makes them; the first to want it writes it."""
    target = into / hashlib.sha256("\n".join(key).encode()).hexdigest()[:16]
    with locked(into / f".{target.name}.lock"):
        if not target.is_dir():
            partial = into / f".{target.name}"
            shutil.rmtree(partial, ignore_errors=True)
            load(folder).save_pretrained(partial)
            os.rename(partial, target)
    return target
