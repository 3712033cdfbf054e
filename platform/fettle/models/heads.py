"""A head over a language model's body, in place of its output head: for reward models and classifiers.

A causal model's is one linear layer, `score`, that reads a text's last token. An encoder's is what transformers has for
its family, and reads the first token: BERT's pooler and `classifier`, RoBERTa's `classifier` of two layers.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from transformers import AutoConfig
from transformers.utils import logging

from fettle.errors import UserError
from fettle.models.family import family_of_config
from fettle.models.stored import Stored, load

if TYPE_CHECKING:
    from transformers import PreTrainedModel

HEAD = "score"
_CLASS = "ForSequenceClassification"
ROWS = (HEAD, "classifier.out_proj", "classifier")
"""Where the linear layer with a row for each label lies."""


def load_headed(base: Path, num_rows: int, dtype: Stored, seed: int, *, keep_head: bool = True) -> PreTrainedModel:
    """The body of the model in `base` under a head of `num_rows` rows: the folder's own if it has one of as many rows
    (and `keep_head`), else fresh rows, the same for the same seed (normal, as transformers initialises them).

    Its forward gives float32 scores. A causal model's are every token's, [R, T, num_rows], so that packed rows, by
    their `input_ids` and `position_ids`, [R, T], can be read at the end of each of their texts. An encoder's are those
    of each row's text, [R, 1, num_rows], by `input_ids` and `attention_mask`. The head is in float32 whatever `dtype`
    is.
    """
    from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, GenerationConfig

    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    has_own = any(name.endswith(_CLASS) for name in config.architectures or ())
    is_left_out = has_own and not (keep_head and config.num_labels == num_rows)
    config.num_labels = num_rows
    torch.manual_seed(seed)
    with _quiet():  # of the language model's output head, which is left out, and of the head, which is new
        kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING[type(config)]
        state = _headless(base) if is_left_out else None
        model: Any = load(kind, None if is_left_out else base, dtype, config=config, state_dict=state)
    if dtype != torch.float32:  # with ZeRO 3 it is, and its shards are not to be touched
        for name in head_names(model):
            model.get_submodule(name).float()
    model.generation_config = GenerationConfig()  # TRL notes the padding token there; it is saved nowhere
    if reads_first(model):
        rows_of(model).register_forward_hook(_exactly)
    model.forward = functools.partial(_text_scores if reads_first(model) else _token_scores, model)
    return model


def own_rows(folder: Path) -> int | None:
    """Rows of the head in a model's folder, from its configuration; None of a language model."""
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    is_headed = any(name.endswith(_CLASS) for name in config.architectures or ())
    return int(config.num_labels) if is_headed else None


def has_head(model: torch.nn.Module) -> bool:
    """Whether the model gives scores, not tokens."""
    return type(model).__name__.endswith(_CLASS)


def reads_first(model: Any) -> bool:
    """Whether a model with a head reads each text's first token: whether it is an encoder."""
    return not isinstance(getattr(model, HEAD, None), torch.nn.Module)


def head_names(model: Any) -> tuple[str, ...]:
    """Names of the modules that are the head of a model with one: the lowest first, the rows last."""
    prefix = model.base_model_prefix
    beside = [name for name, part in model.named_children() if name != prefix and any(True for _ in part.parameters())]
    pooler = getattr(getattr(model, prefix), "pooler", None)
    return (*([f"{prefix}.pooler"] if pooler is not None else []), *beside)


def rows_of(model: Any) -> torch.nn.Linear:
    """The head's linear layer with a row for each label."""
    found: torch.nn.Linear = next(
        layer for layer in (_part(model, name) for name in ROWS) if isinstance(layer, torch.nn.Linear)
    )
    return found


def check_headed(base: Path, **where: Any) -> None:
    """Raises UserError, with file, line and field from `where`, unless `load_headed` has a head for the model in
    `base`; from its configuration, without loading weights."""
    # Here, because every driver imports this file, and not each needs the classes of models, which take 3 s.
    from transformers import AutoModelForSequenceClassification

    config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    try:
        with torch.device("meta"):
            model = AutoModelForSequenceClassification.from_config(config, trust_remote_code=False)
    except ValueError:
        model = None
    if model is None or not _can_read(model):
        raise UserError(
            f"there is no head for models of type {config.model_type}",
            **where,
            expected="a causal language model such as Llama, Qwen, Mistral, Gemma or GPT-2, or an encoder such as BERT",
        )


def _token_scores(model: Any, **inputs: Any) -> torch.Tensor:
    """inputs: as the body takes them, and arguments that PEFT fills in, all None."""
    body = getattr(model, model.base_model_prefix)
    given = {name: value for name, value in inputs.items() if value is not None}
    hidden = body(**given, use_cache=False).last_hidden_state
    with torch.autocast(hidden.device.type, enabled=False):  # bfloat16's eight bits do not tell close answers apart
        return model.score(hidden.float())


def _text_scores(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor, **unused: Any) -> torch.Tensor:
    """unused: arguments that PEFT fills in, all None."""
    scores: torch.Tensor = type(model).forward(model, input_ids=input_ids, attention_mask=attention_mask).logits
    return scores[:, None].float()


def _exactly(layer: torch.nn.Linear, given: tuple[torch.Tensor], output: torch.Tensor) -> torch.Tensor:
    """The layer's output in float32: bfloat16's eight bits do not tell close answers apart."""
    if output.dtype == torch.float32:
        return output
    with torch.autocast(output.device.type, enabled=False):
        return torch.nn.functional.linear(given[0].float(), layer.weight.float(), layer.bias.float())


def _can_read(model: Any) -> bool:
    """Whether `load_headed` knows the model's head, and an encoder's attention is torch's own."""
    if isinstance(getattr(model, HEAD, None), torch.nn.Linear):
        return True
    is_encoder = family_of_config(model.config) == "masked" and model._supports_sdpa
    return is_encoder and any(isinstance(_part(model, name), torch.nn.Linear) for name in ROWS)


def _part(model: torch.nn.Module, name: str) -> Any:
    """The module of that name; None where there is none."""
    here: Any = model
    for part in name.split("."):
        here = getattr(here, part, None)
    return here


def _headless(base: Path) -> dict[str, torch.Tensor]:
    """The weights in `base` but the head's rows. (transformers overlooks some of another size, but not with ZeRO 3.)"""
    found: dict[str, torch.Tensor] = {}
    for file in sorted(base.glob("*.safetensors")):
        found |= {name: weight for name, weight in load_file(file).items() if name.rpartition(".")[0] not in ROWS}
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
