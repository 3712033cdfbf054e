"""What vLLM can do with a model's architecture, read from its source: importing it would cost a driver 5 s or more."""

from __future__ import annotations

import ast
from functools import cache
from importlib.util import find_spec
from pathlib import Path

_MODELS = "vllm.model_executor.models"


def has_lora(architecture: str) -> bool | None:
    """Whether vLLM applies LoRA adapters to models of an architecture, such as `LlamaForCausalLM`; None where that
    cannot be told: there is no vLLM here, or it does not list the architecture."""
    listed = _listed().get(architecture)
    if listed is None:
        return None
    module, name = listed
    return _inherits(module if module.startswith("vllm.") else f"{_MODELS}.{module}", name, "SupportsLoRA")


@cache
def _listed() -> dict[str, tuple[str, str]]:
    """Module and class of each architecture, of vLLM's registry of models."""
    found: dict[str, tuple[str, str]] = {}
    for node in ast.walk(_parsed(f"{_MODELS}.registry") or ast.Module([], [])):
        if not isinstance(node, ast.Dict):
            continue
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                parts = [one.value for one in value.elts if isinstance(one, ast.Constant)]
                if len(parts) == len(value.elts) == 2:
                    found.setdefault(str(key.value), (str(parts[0]), str(parts[1])))
    return found


@cache
def _inherits(module: str, name: str, wanted: str) -> bool | None:
    """Whether a class of vLLM has `wanted` among its bases or theirs; None where the class is not found."""
    if name == wanted:
        return True
    tree = _parsed(module)
    if tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            bases = [base.id for base in node.bases if isinstance(base, ast.Name)]
            return any(_inherits(module, base, wanted) for base in bases)
        if isinstance(node, ast.ImportFrom) and name in [alias.asname or alias.name for alias in node.names]:
            original = next(alias.name for alias in node.names if name in (alias.asname, alias.name))
            return _inherits(_absolute(node, module), original, wanted)
    return None


def _absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that a `from … import` names, seen from `module`."""
    if not node.level:
        return node.module or ""
    is_package = _file(module) is not None and str(_file(module)).endswith("__init__.py")
    package = module.split(".")[: None if is_package and node.level == 1 else -(node.level - is_package)]
    return ".".join([*package, *([node.module] if node.module else [])])


@cache
def _parsed(module: str) -> ast.Module | None:
    file = _file(module)
    return ast.parse(file.read_text(encoding="utf-8")) if file is not None else None


def _file(module: str) -> Path | None:
    """Where a module of vLLM lies; None of any other."""
    found = find_spec("vllm")  # of a package at the top this imports nothing
    top, *parts = module.split(".")
    if top != "vllm" or found is None or not found.submodule_search_locations:
        return None
    path = Path(found.submodule_search_locations[0]).joinpath(*parts)
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()), None)
