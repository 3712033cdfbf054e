"""A linear head over a language model's body, in place of its output head: for reward models and classifiers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedModel,
)
from transformers.utils import logging

from fettle.errors import UserError

HEAD = "score"


def load_headed(base: Path, num_rows: int, dtype: torch.dtype, seed: int, *, keep_head: bool = True) -> PreTrainedModel:
    """The body of the model in `base` under a linear head of `num_rows` rows, called `score`: the folder's own if it
    has one of as many rows (and `keep_head`), else a fresh one, the same for the same seed (normal, as transformers
    initialises it).

    Its forward takes `input_ids` and `position_ids`, [R, T], and gives every token's scores, float32 [R, T, num_rows],
    so that packed rows can be read at the end of each of their texts. The head is in float32 whatever `dtype` is.
    """
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    has_own = any(name.endswith("ForSequenceClassification") for name in config.architectures or ())
    is_left_out = has_own and not (keep_head and config.num_labels == num_rows)
    config.num_labels = num_rows
    torch.manual_seed(seed)
    with _quiet():  # of the language model's output head, which is left out, and of the head, which is new
        kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        model: Any = kind.from_pretrained(
            None if is_left_out else base,
            config=config,
            dtype=dtype,
            attn_implementation="sdpa",
            use_safetensors=True,
            state_dict=_headless(base) if is_left_out else None,
            trust_remote_code=False,
        )
    if dtype != torch.float32:  # with ZeRO 3 it is, and its shards are not to be touched
        model.score.float()
    model.generation_config = GenerationConfig()  # TRL notes the padding token there; it is saved nowhere
    model.forward = functools.partial(_token_scores, model)
    return model


def has_head(model: torch.nn.Module) -> bool:
    """Whether the model gives scores, not tokens."""
    return isinstance(getattr(model, HEAD, None), torch.nn.Module)


def check_headed(base: Path, **where: Any) -> None:
    """Raises UserError, with file, line and field from `where`, unless transformers has `load_headed`'s head for the
    model in `base`; from its configuration, without loading weights."""
    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError:
        model = None
    if model is None or not has_head(model):
        raise UserError(
            f"transformers has no linear head for models of type {config.model_type}",
            **where,
            expected="a causal language model such as Llama, Qwen, Mistral, Gemma or GPT-2",
        )


def _token_scores(model: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, **unused: Any) -> torch.Tensor:
    """unused: arguments that PEFT fills in, all None."""
    body = getattr(model, model.base_model_prefix)
    hidden = body(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
    with torch.autocast(hidden.device.type, enabled=False):  # bfloat16's eight bits do not tell close answers apart
        return model.score(hidden.float())


def _headless(base: Path) -> dict[str, torch.Tensor]:
    """The weights in `base` but the head's. (transformers overlooks one of another size, but not with ZeRO 3.)"""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        found |= {name: weight for name, weight in load_file(file).items() if name.partition(".")[0] != HEAD}
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
