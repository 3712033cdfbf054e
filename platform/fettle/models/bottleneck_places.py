"""Where in a model bottleneck adapters come, told by names alone: the driver asks before anything heavy is imported."""

from __future__ import annotations

import re
from collections.abc import Iterable

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_FEED_FORWARD = ("mlp", "feed_forward")
_PLACE = re.compile(rf"(?:.*\.)?\d+\.({'|'.join((*_ATTENTION, *_FEED_FORWARD))})")


def places(names: Iterable[str]) -> list[str]:
    """Of the names of a model's modules those after which a bottleneck comes: attention and feed-forward of each layer;
    none where one of the two is called otherwise."""
    found = [name for name in names if _PLACE.fullmatch(name)]
    kinds = {name.rpartition(".")[2] for name in found}
    return found if kinds & set(_ATTENTION) and kinds & set(_FEED_FORWARD) else []


def why_no_places(model_type: str) -> str:
    """What to tell of a model without any."""
    wanted = f"{', '.join(_ATTENTION)} and {' or '.join(_FEED_FORWARD)}"
    return f"layers of {model_type} models have no parts called {wanted}, after which bottlenecks could come"
