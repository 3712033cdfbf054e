"""A model that has learned nothing: random weights of a given configuration, and a tokenizer, in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedTokenizerBase

from fettle.errors import UserError, did_you_mean
from fettle.models.family import auto_class, family_of_config

_MULTIPLE = 8  # rows of the embeddings are filled up to it: matrices of such sizes are multiplied faster
# What another model's config.json says of that model, and not of its architecture.
_OF_ANOTHER = ("architectures", "vocab_size", "_name_or_path", "transformers_version", "auto_map")
_SUCH_AS = "one of transformers' types, such as llama, qwen3, gpt2, bert, modernbert or t5"


def fresh_config(told: str | Mapping[str, Any], relative_to: Path, **where: Any) -> Any:
    """The transformers configuration a recipe gives: as keys, or as the path of a config.json.

    where: file, line, field of the UserError raised where it is not there, names no type, or describes no model.
    """
    is_file = isinstance(told, str)
    keys = _read(relative_to / Path(told).expanduser(), **where) if isinstance(told, str) else _plain(told)
    model_type = keys.pop("model_type", None)
    if model_type not in CONFIG_MAPPING:
        guess = did_you_mean(str(model_type), list(CONFIG_MAPPING.keys()))
        raise UserError(f"config has the model_type '{model_type}'{guess}", **where, expected=_SUCH_AS)
    kind: Any = CONFIG_MAPPING[model_type]
    known = [*kind().to_dict(), *kind.attribute_map]
    for key in keys if not is_file else ():  # transformers would take any, and so a misspelt one
        if key not in known:
            raise UserError(f"config: {model_type} has no '{key}'{did_you_mean(key, known)}", **where)
    try:
        config = kind(**{key: value for key, value in keys.items() if key not in _OF_ANOTHER})
        if type(config) not in auto_class(family_of_config(config))._model_mapping:
            raise UserError(f"config: {model_type} is no language model", **where, expected=_SUCH_AS)
        with torch.device("meta"):
            auto_class(family_of_config(config)).from_config(config, trust_remote_code=False)
    except UserError:
        raise
    except Exception as error:  # whatever a family's own checks, or its layers, raise
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"config describes no {model_type} that can be made: {said}", **where) from None
    return config


def write_fresh(folder: Path, config: Any, tokenizer: PreTrainedTokenizerBase, seed: int) -> int:
    """Writes the model, of random weights by `seed` in the configuration's type, with the tokenizer; returns the number
    of weights. The configuration gets the tokenizer's size, rounded up to a multiple of 8, and its special tokens."""
    family = family_of_config(config)
    config.vocab_size = -(-len(tokenizer) // _MULTIPLE) * _MULTIPLE
    config.pad_token_id = tokenizer.pad_token_id
    is_masked = family == "masked"
    config.bos_token_id = tokenizer.cls_token_id if is_masked else tokenizer.bos_token_id
    config.eos_token_id = tokenizer.sep_token_id if is_masked else tokenizer.eos_token_id
    if is_masked and hasattr(config, "cls_token_id"):
        config.cls_token_id, config.sep_token_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    if family == "seq2seq":
        config.decoder_start_token_id = tokenizer.pad_token_id
    torch.manual_seed(seed)
    dtype = getattr(config, "dtype", None) or torch.float32
    model: Any = auto_class(family).from_config(config, dtype=dtype, trust_remote_code=False)
    model.config.dtype = dtype
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return int(sum(weight.numel() for weight in model.parameters()))


def _read(path: Path, **where: Any) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"no configuration at {path}", **where, expected="a config.json, or its keys") from None
    except ValueError as error:
        raise UserError(f"{path} is not valid JSON ({error})", **where) from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is no JSON object", **where)
    return found


def _plain(told: Mapping[str, Any]) -> dict[str, Any]:
    """Without the tuples a frozen spec has for lists."""
    found: dict[str, Any] = json.loads(json.dumps(told))
    return found
