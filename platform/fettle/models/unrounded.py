"""Weights of a few bits, written out in full: for an engine that shall say what a model over them says."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from fettle.models.base import load_tokenizer, load_weights
from fettle.models.stored import Quantised


def unrounded(base: Path, bits: Literal[4, 8], folder: Path) -> Path:
    """`folder`, with a language model in it whose weights are, in full, those that `base` has in so many bits."""
    if not folder.is_dir():
        partial = folder.with_name(f".{folder.name}")
        model: Any = load_weights(base, Quantised(bits, torch.float32))
        model.dequantize().save_pretrained(partial)
        load_tokenizer(base).save_pretrained(partial)
        partial.rename(folder)
    return folder
