"""What a stage begins from: full weights, and an adapter over them where there is one."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.errors import UserError
from fettle.models.base import base_and_adapter, digest_of, is_quantized, resolve_base, template_in
from fettle.recipe.adapter import AdapterSpec


@dataclass(frozen=True)
class Origin:
    """What a stage begins from: full weights, and an adapter over them where there is one.

    root: the model whose tokenizer and configuration hold for all of it. identity: fingerprint or digest.
    adapter_spec: what the adapter is, where an earlier stage of this recipe made it. chat_template: text of one in
    place of the tokenizer's: the recipe's, or that which the adapter was trained with.
    """

    base: Path
    root: Path
    identity: str
    adapter: Path | None = None
    adapter_spec: AdapterSpec | None = None
    chat_template: str | None = None


def folder_origin(folder: Path, *, takes_foreign: bool = False, **where: Any) -> Origin:
    """What lies in the folder of a model or an adapter. takes_foreign: an adapter that fettle did not make will do.

    where: file, line, field of the UserError raised where it is neither, or where its base is gone or has changed.
    """
    resolve_base(folder, None, **where)
    base, adapter = base_and_adapter(folder)
    if adapter is None:
        if not (folder / "adapter_config.json").is_file():
            _check_full(folder, **where)
            return Origin(folder, folder, digest_of(folder))
        if takes_foreign:
            return _foreign(folder, **where)
        raise UserError(
            f"{folder} is an adapter without an artifact.json",
            **where,
            expected="a model, or an adapter that fettle made",
            fix=f"merge it into its base (`fettle merge {folder} --out FOLDER`), and begin from that",
        )
    if not base.is_dir():
        raise UserError(f"the base of this adapter, {base}, is not there", **where)
    assert adapter.base is not None
    if digest_of(base) != adapter.base["digest"]:
        raise UserError(f"its base {base} is not the one it was trained on (the digests differ)", **where)
    _check_full(base, **where)
    return Origin(base, base, adapter.digest, folder, chat_template=template_in(folder))


def _foreign(folder: Path, **where: Any) -> Origin:
    """An adapter that says by itself what its base is called."""
    name = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not name:
        raise UserError(f"{folder / 'adapter_config.json'} names no base", **where, fix="add base_model_name_or_path")
    try:
        base = resolve_base(name)
    except UserError as error:
        raise UserError(f"the base of {folder}: {error.got}", **where, expected=error.expected, fix=error.fix) from None
    _check_full(base, **where)
    both = f"{digest_of(base)} {digest_of(folder)}"
    identity = "sha256:" + hashlib.sha256(both.encode()).hexdigest()
    return Origin(base, base, identity, folder, chat_template=template_in(folder))


def _check_full(base: Path, **where: Any) -> None:
    if is_quantized(base):
        raise UserError(
            f"{base} is quantised, for serving: weights that were rounded are neither trained nor merged into",
            **where,
            expected="full weights",
            fix="begin from the model it was made from",
        )
