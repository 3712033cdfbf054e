"""An artifact as a plain folder for everybody else's tools: files that transformers, PEFT and vLLM load, and a card."""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from fettle.artifact import is_artifact, read_artifact, sync_folder
from fettle.errors import UserError
from fettle.models.base import resolve_base
from fettle.pipeline.card import card
from fettle.pipeline.lineage import descent_of
from fettle.registry.files import checked_files
from fettle.registry.folder import FolderRegistry
from fettle.registry.reference import reference

CARD = "README.md"


def export(what: str, out: Path, *, registry: Path | None = None, runs: Path = Path("runs")) -> Path:
    """A copy of an artifact, or of a published version, in the new folder `out`, with a model card that tells its
    digest, licence and lineage.

    what: the artifact's folder, NAME@ALIAS or NAME:N. runs: what the runs' folders lie in, for the lineage. Raises
    UserError for anything else, files that have changed since they were made, files that may be code, and a folder that
    is there already; then nothing is left behind.
    """
    source, name = _found(what, registry)
    out = out.expanduser().resolve()
    if out.exists():
        raise UserError(f"{out} is there already", field="OUT", fix="name another folder")
    read_artifact(source, verify=True)
    checked_files(source)
    told = card(descent_of(source, runs), name)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".partial-{out.name}-{uuid.uuid4().hex[:8]}")
    try:
        shutil.copytree(source, partial)
        (partial / CARD).write_text(told, encoding="utf-8")
        sync_folder(partial)
        os.rename(partial, out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _found(what: str, registry: Path | None) -> tuple[Path, str]:
    """The folder, and what the card calls it."""
    if is_artifact(what):
        return Path(what), read_artifact(what).name
    if registry is None or ("@" not in what and ":" not in what):
        folder = resolve_base(what, field="WHAT")
        raise UserError("it was not made by fettle, and is a plain folder already", file=folder)
    version = FolderRegistry(registry).find(reference(what, "WHAT"))
    if not is_artifact(version.folder):
        raise UserError(f"{version.id} was not made by fettle", file=version.folder, fix="copy that folder as it is")
    return version.folder, version.id
