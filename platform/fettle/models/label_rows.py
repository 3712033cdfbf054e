"""A classifier's labels: in its configuration, and as the rows of its head."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open

from fettle.models.heads import ROWS

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def name_labels(model: PreTrainedModel, labels: Sequence[str]) -> None:
    """Writes the labels into the model's configuration, from which `transformers.pipeline` reads them."""
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    model.config.architectures = [type(model).__name__]  # else named when the model is saved; an adapter's is not


def labels_in(folder: Path) -> tuple[str, ...]:
    """The labels of the classifier in a folder, in the order of its head's rows; of any other model none."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:  # an adapter's folder
        return ()
    is_headed = any(name.endswith("ForSequenceClassification") for name in config.get("architectures") or ())
    if not is_headed or not isinstance(config.get("id2label"), dict):
        return ()
    return tuple(label for _, label in sorted((int(row), str(name)) for row, name in config["id2label"].items()))


def head_rows(folder: Path) -> dict[str, torch.Tensor]:
    """The head's rows, `weight` [labels, width] and perhaps `bias` [labels], as they lie in a model's or an adapter's
    folder; empty where there is no head."""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as weights:
            for key in weights.keys():  # noqa: SIM118 (no mapping)
                layer, _, kind = key.rpartition(".")
                if any(layer == name or layer.endswith(f".{name}") for name in ROWS):
                    found[kind] = weights.get_tensor(key)
    return found


def carry_over(
    fresh: torch.Tensor, labels: Sequence[str], earlier: torch.Tensor, earlier_labels: Sequence[str]
) -> torch.Tensor:
    """`fresh`, [labels, …], with the rows of the labels that were there before taken from `earlier`,
    [earlier_labels, …], wherever they stood there."""
    rows = fresh.clone()
    place = {label: row for row, label in enumerate(earlier_labels)}
    for row, label in enumerate(labels):
        if label in place:
            rows[row] = earlier[place[label]].to(rows)
    return rows
