"""What an adapter's folder tells of it, in a recipe's words, without loading anything."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fettle.recipe.adapter import AdapterSpec

_KINDS = {"IA3": "ia3", "PREFIX_TUNING": "prefix", "PROMPT_TUNING": "prompt", "BOTTLENECK": "bottleneck"}


def kind_in(folder: Path) -> str:
    """The kind of the adapter in a folder; PEFT's word for it where no recipe makes it."""
    return str(settings_in(folder, ())["kind"])


def settings_in(folder: Path, layers: Sequence[str]) -> dict[str, Any]:
    """Kind and settings of the adapter in a folder, by a recipe's keys; how it was trained (bits, lr_ratio) is no part
    of it. layers: all those of its base that may have one."""
    config: dict[str, Any] = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    kind = str(config.get("peft_type"))
    if kind == "LORA":
        return {
            "kind": "dora" if config.get("use_dora") else "lora",
            "r": config.get("r"),
            "alpha": config.get("lora_alpha"),
            "dropout": config.get("lora_dropout"),
            "rslora": bool(config.get("use_rslora")),
            "targets": _targets(config.get("target_modules") or (), layers),
        }
    sizes = {"tokens": config.get("num_virtual_tokens"), "size": config.get("size")}
    return {"kind": _KINDS.get(kind, kind)} | {key: value for key, value in sizes.items() if value is not None}


def settings_of(adapter: AdapterSpec, layers: Sequence[str]) -> dict[str, Any]:
    """The same of a recipe's adapter."""
    keys = ("kind", "r", "alpha", "dropout", "rslora", "tokens", "size")
    told = {key: value for key in keys if (value := getattr(adapter, key)) is not None}
    return told if adapter.targets is None else told | {"targets": _targets(adapter.targets, layers)}


def _targets(names: Sequence[str] | str, layers: Sequence[str]) -> str | list[str]:
    """`all-linear` for all layers, which PEFT writes down one by one."""
    if isinstance(names, str):
        return names
    return "all-linear" if {name.rpartition(".")[2] for name in names} == set(layers) else sorted(names)
