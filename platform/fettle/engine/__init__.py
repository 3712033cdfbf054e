"""The engine that generates and scores: the only importer of vLLM."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fettle.engine.env import EngineOptions, prepare_process

if TYPE_CHECKING:
    from fettle.engine.vllm import Engine

__all__ = ["EngineOptions", "start_engine"]


def start_engine(model: str | Path, options: EngineOptions | None = None) -> Engine:
    """An engine over the model in a folder, living in this process; vLLM is imported here and not before.

    vLLM reads its environment once, at import, so the environment has to be set first: that order is the reason for
    this function and for the late import.
    """
    options = options or EngineOptions()
    prepare_process(options)
    from fettle.engine.vllm import Engine

    return Engine(Path(model), options)
