"""What one engine serves, of whatever kind the model is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fettle.engine.env import EngineOptions
from fettle.serving.heads.served import ServedHead, resolve_head
from fettle.serving.resolve import PLACES, ServedModel, fitted, resolve

Served = ServedModel | ServedHead


def resolved(
    model: str | Path, options: EngineOptions | None, *, places: int = PLACES, **told: Any
) -> tuple[Served, EngineOptions]:
    """What is served, and the options with what it needs. told: as for `resolve`. Raises UserError, as that and
    `resolve_head`."""
    options = options or EngineOptions()
    if (head := resolve_head(model, options, **told)) is not None:
        return head, options
    served = resolve(model, places=places, **told)
    return served, fitted(options, served)
