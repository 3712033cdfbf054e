"""Weights rounded for serving here and now, without a recipe and without workers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from fettle.artifact import read_artifact
from fettle.data.coder import end_ids
from fettle.errors import UserError
from fettle.models.base import load_tokenizer, resolve_base
from fettle.models.quantize import write_quantized
from fettle.needs.preflight import check_disk
from fettle.pipeline.console import quiet
from fettle.pipeline.origin import folder_origin
from fettle.pipeline.quantizing import check_can_quantize, quantized_fingerprint
from fettle.recipe.quantize import QuantizeStage


def quantize(stage: QuantizeStage, model: str, out: Path, *, say: Callable[[str], None]) -> Path:
    """The folder of quantised weights. model: as a recipe's base, or an adapter's folder. Raises UserError before
    anything is loaded."""
    artifact = out.expanduser().resolve()
    if artifact.exists():
        raise UserError(f"{out} is there already", field="--out", fix="name another folder")
    folder = resolve_base(model)
    origin = folder_origin(folder, takes_foreign=True, file=folder)
    check_can_quantize(stage, origin, file=folder)
    check_disk(artifact.parent, [(origin.base, None)])
    how = f"{stage.bits} bits" + (f", groups of {stage.group_size}" if stage.group_size else "")
    say(f"quantising {model}, {how}" + (f"\nover       {origin.base}, merged first" if origin.adapter else ""))
    with quiet(Path(os.devnull)):  # progress bars, and what libraries find missing
        write_quantized(
            artifact,
            origin.base,
            origin.adapter,
            bits=stage.bits,
            group=stage.group_size,
            name=artifact.name,
            fingerprint=quantized_fingerprint(stage, origin),
            end_ids=end_ids(load_tokenizer(origin.root, origin.chat_template)),
            chat_template=origin.chat_template,
        )
    before, after = (_mebibytes(one) for one in (origin.base, artifact))
    say(f"artifact   {out} ({before:,.1f} → {after:,.1f} MiB, {read_artifact(artifact).digest[:19]})")
    say(f"serve it   fettle serve {out}")
    return artifact


def _mebibytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**20
