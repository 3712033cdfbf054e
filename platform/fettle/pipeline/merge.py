"""Adapters merged here and now, without a recipe and without workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fettle.artifact import read_artifact
from fettle.data.coder import end_ids
from fettle.errors import UserError
from fettle.models.base import load_tokenizer
from fettle.models.family import family_of
from fettle.models.merge import Combination, write_merged
from fettle.needs.preflight import check_disk
from fettle.pipeline.console import quiet
from fettle.pipeline.merging import check_mergeable, fingerprint_of, resolved
from fettle.pipeline.origin import folder_origin
from fettle.recipe.merge import MergeStage


def merge(stage: MergeStage, out: Path, *, seed: int, say: Callable[[str], None]) -> Path:
    """The folder of full weights. stage: its adapters are folders. Raises UserError before anything is loaded."""
    named = [(one.from_, one.weight) for one in stage.adapters or ()] or [(str(stage.from_), 1.0)]
    folders = [Path(name).expanduser().resolve() for name, _ in named]
    artifact = out.expanduser().resolve()
    if artifact.exists():
        raise UserError(f"{out} is there already", field="--out", fix="name another folder")
    for folder in folders:
        if not folder.is_dir():
            raise UserError("no such folder", file=folder, expected="an adapter's folder")
    origins = [folder_origin(folder, takes_foreign=True, file=folder) for folder in folders]
    check_mergeable(origins, lambda number: {"file": folders[number]})
    first, weights = origins[0], tuple(weight for _, weight in named)
    check_disk(artifact.parent, [(first.base, None)])
    method, density, seed = resolved(stage.method, stage.density, seed)
    how = _described(method, density, seed) if len(folders) > 1 else ""
    names = " + ".join(
        f"{weight:g} x {folder.name}" if how else folder.name for folder, weight in zip(folders, weights, strict=True)
    )
    say(f"merging   {names}{how}\nbase      {first.base}")
    with quiet(Path(os.devnull)):  # progress bars, and what libraries find missing
        write_merged(
            artifact,
            Combination(first.base, tuple(folders), weights, method, density, seed),
            name=artifact.name,
            fingerprint=fingerprint_of(stage, origins, weights, seed),
            end_ids=end_ids(load_tokenizer(first.root, first.chat_template)),
            chat_template=first.chat_template,
        )
    size = sum(file.stat().st_size for file in artifact.glob("*.safetensors"))
    say(f"artifact  {out} ({size / 2**20:,.0f} MiB, {read_artifact(artifact).digest[:19]})")
    if family_of(first.base) == "causal":
        say(f"serve it  fettle serve {out}")
    return artifact


def _described(method: str, density: float, seed: int) -> str:
    told = f", {method}"
    told += f", density {density:g}" if method != "linear" else ""
    return told + (f", seed {seed}" if method.startswith("dare") else "")
