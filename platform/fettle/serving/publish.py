"""An adapter or a model into a registry, once it is known that an endpoint would take it."""

from __future__ import annotations

from pathlib import Path

from fettle.artifact import is_artifact, read_artifact
from fettle.errors import UserError
from fettle.models.base import resolve_base
from fettle.registry.folder import FolderRegistry, Version
from fettle.registry.reference import CANDIDATE, check_name
from fettle.serving.heads.served import only_causal, task_of
from fettle.serving.resolve import admitted, base_of
from fettle.serving.served import resolved
from fettle.serving.weights import check_model


def publish(
    folder: str | Path,
    *,
    registry: str | Path,
    name: str | None = None,
    alias: str = CANDIDATE,
    base: str | Path | None = None,
) -> Version:
    """Copies the adapter or full model in `folder` into the registry as the next version of `name`, and points `alias`
    at it.

    name: by default its artifact's, or its folder's. base: what an adapter goes over, by default what it says itself.
    Raises UserError where it could not be served, where it was made for another base, and as `FolderRegistry.publish`.
    """
    source = resolve_base(folder, field="model")
    called = check_name(name or (read_artifact(source).name if is_artifact(source) else source.name))
    if not (source / "adapter_config.json").is_file():
        if base is not None:
            raise UserError("a full model goes over no other", file=source, field="base", fix="leave base out")
        resolved(source, None, name=called)
        return FolderRegistry(registry).publish(called, source, alias=alias)
    over = resolve_base(base, field="base") if base is not None else base_of(source)[0]
    if (task := task_of(source, over)) is not None:
        raise only_causal(source, task, field="adapter", fix="leave it where it is")
    admitted(called, source, over, check_model(over))
    return FolderRegistry(registry).publish(called, source, alias=alias)
