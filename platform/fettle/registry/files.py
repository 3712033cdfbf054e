"""What a published version may consist of: plain files of an adapter or a whole model, none of them code."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from fettle.artifact import MANIFEST
from fettle.errors import UserError

Kind = Literal["adapter", "model"]
MAX_BYTES = 4 << 30
# Code, or what may hide some; everything else of a model is text.
_TAKEN = {".json", ".safetensors", ".jinja", ".txt", ".model"}


def checked_files(folder: Path) -> tuple[Kind, int]:
    """What is in a folder, and its bytes. Raises UserError for what is neither, or holds what shall not be published;
    adapters of more than 4 GiB too."""
    kind: Kind = "adapter" if (folder / "adapter_config.json").is_file() else "model"
    if kind == "adapter" and not (folder / "adapter_model.safetensors").is_file():
        raise UserError(
            "no adapter in safetensors", file=folder, expected="adapter_config.json and adapter_model.safetensors"
        )
    if kind == "model" and not ((folder / "config.json").is_file() and any(folder.glob("*.safetensors"))):
        raise UserError(
            "neither an adapter nor a model in safetensors",
            file=folder,
            expected="adapter_config.json and adapter_model.safetensors, or config.json and *.safetensors",
        )
    size = 0
    for file in sorted(folder.rglob("*")):
        if file.is_symlink():
            raise UserError("a link; only plain files are published", file=file)
        if file.is_dir():
            continue
        if file.suffix not in _TAKEN and file.name not in (MANIFEST, "README.md"):
            raise UserError(
                f"not a file that a{'n adapter' if kind == 'adapter' else ' model'} consists of",
                file=file,
                expected=", ".join(sorted(_TAKEN)),
                fix="take it out of the folder, or save what is in it anew with safetensors",
            )
        size += file.stat().st_size
    if kind == "adapter" and size > MAX_BYTES:
        raise UserError(f"{size / 2**30:.1f} GiB; an adapter has at most {MAX_BYTES >> 30}", file=folder)
    return kind, size
