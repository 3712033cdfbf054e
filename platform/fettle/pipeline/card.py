"""A model card: where an artifact comes from, as a README that a model hub reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from fettle.pipeline.lineage import Descent, lines


def card(descents: Sequence[Descent], name: str) -> str:
    """Markdown under a head of YAML. descents: of the artifact, then of what it was made from. name: the heading."""
    first = descents[0].artifact
    head: dict[str, Any] = {"library_name": "peft" if first.kind == "adapter" else "transformers"}
    if len(first.licences) == 1 and not first.unlicensed:
        head["license"] = first.licences[0].lower()
    if first.base is not None:
        head["base_model"] = first.base["path"]
    parts = [f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n", f"# {name}\n"]
    what = {"adapter": "An adapter", "reward": "A reward model"}.get(first.kind, f"A {first.kind}")
    parts.append(f"{what}, trained with fettle.\n")
    for place, descent in enumerate(descents):
        title = "Where it comes from" if place == 0 else f"Made from: {descent.artifact.name}, {descent.artifact.kind}"
        rows = "".join(f"| {what} | {told.replace('|', '/')} |\n" for what, told in lines(descent))
        parts.append(f"## {title}\n\n| | |\n|---|---|\n{rows}")
    return "\n".join(parts)
