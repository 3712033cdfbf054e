"""What is served by transformers: classifiers, reward models, encoders and encoder-decoder models. Reads files only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fettle.artifact import is_artifact, read_artifact
from fettle.engine.env import EngineOptions
from fettle.errors import UserError
from fettle.models.base import positions_of, resolve_base, template_in
from fettle.serving.resolve import base_of, check_digest, checked_name, name_of
from fettle.serving.tasks import CHAT, CLASSIFY, COMPLETE, DOES, EMBED, SCORE, Task
from fettle.serving.weights import check_no_code, check_tokenizer, has_tokenizer, read

_CAUSAL = ("ForCausalLM", "LMHeadModel")
_OTHERS = ("TokenClassification", "QuestionAnswering", "MultipleChoice", "NextSentencePrediction", "EncoderModel")
_LEARNED_TOKENS = ("PREFIX_TUNING", "PROMPT_TUNING", "P_TUNING")
_UNBOUNDED = 2048  # tokens of a T5's prompt, and of its answer, whose positions have no end
_SANE = 1_000_000  # tokenizers that know no limit name one far above
_POOLINGS: dict[str, Literal["mean", "first"]] = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "first"}


@dataclass(frozen=True)
class ServedHead:
    """A model under `name`. folder: what was asked for, with the tokenizer. base: its full weights, under the adapter
    where there is one; parent: their name. rows: of the head; labels: theirs. max_model_len: tokens of an input, and of
    an answer that an encoder-decoder model writes. pooling: of an encoder's token vectors, their mean or the first.
    digest: of a published version, which answers name."""

    name: str
    task: Task
    folder: Path
    base: Path
    max_model_len: int
    adapter: Path | None = None
    parent: str | None = None
    chats: bool = False
    rows: int = 0
    labels: tuple[str, ...] = ()
    pooling: Literal["mean", "first"] = "mean"
    digest: str | None = None

    def called(self, version: str, digest: str) -> ServedHead:
        """The same, as a published version."""
        return replace(self, name=version, digest=digest)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a request may give as `model`."""
        return (self.name,)

    @property
    def primary(self) -> str:
        """The name of what was asked for."""
        return self.name

    @property
    def example(self) -> tuple[str, dict[str, Any]]:
        """A route, and a request to it."""
        text = "Once upon a time"
        messages = [{"role": "user", "content": "Hello"}]
        examples: dict[Task, tuple[str, dict[str, Any]]] = {
            "write": (CHAT, {"messages": messages}) if self.chats else (COMPLETE, {"prompt": text}),
            "classify": (CLASSIFY, {"input": [text]}),
            "reward": (SCORE, {"prompts": ["Who are you?"], "completions": [text]}),
            "embed": (EMBED, {"input": [text]}),
        }
        route, body = examples[self.task]
        return route, {"model": self.name, **body}


def resolve_head(
    model: str | Path,
    options: EngineOptions,
    *,
    name: str | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    registry: str | Path | None = None,
    tool_parser: str | None = None,
) -> ServedHead | None:
    """As `resolve`, of a model that vLLM does not serve; None of a causal language model, which it does.

    Raises UserError for a head of another kind, for adapters that such a model cannot take live, and for anything that
    would keep it from starting.
    """
    folder = resolve_base(model, field="model")
    adapter = folder if (folder / "adapter_config.json").is_file() else None
    base, parent = base_of(folder) if adapter is not None else (folder, None)
    task = task_of(folder, base)
    if task is None:
        return None
    if adapters or registry is not None:
        field = "adapter" if adapters else "registry"
        raise only_causal(folder, task, field=field, fix=f"leave {field} out")
    if tool_parser is not None:
        raise UserError("only causal language models call tools here", field="tool_parser", fix="leave it out")
    check_no_code(base)
    if adapter is not None:
        check_digest(adapter, base)
    if adapter is None or not has_tokenizer(folder):
        check_tokenizer(base)
    served = ServedHead(
        name=checked_name(name) if name is not None else name_of(model, folder),
        task=task,
        folder=folder if has_tokenizer(folder) else base,
        base=base,
        max_model_len=_longest(base, adapter, options),
        adapter=adapter,
        parent=parent,
        chats=template_in(folder) is not None or template_in(base) is not None,
    )
    if task in ("classify", "reward"):
        labels = _labels(folder, base)
        return replace(served, labels=labels if task == "classify" else (), rows=len(labels))
    return replace(served, pooling=_pooling(base)) if task == "embed" else served


def task_of(folder: Path, base: Path) -> Task | None:
    """What the model in a folder does, whose full weights lie in `base`; None of a causal language model, and of what
    is no model that we know. Raises UserError for a head that is not served."""
    kind = read_artifact(folder).kind if is_artifact(folder) else "model"
    if kind in ("reward", "classifier"):
        return "reward" if kind == "reward" else "classify"
    told, config = read(folder / "adapter_config.json"), read(base / "config.json")
    names = [str(name) for name in config.get("architectures") or ()]
    if told.get("task_type") == "TOKEN_CLS" or any(head in name for head in _OTHERS for name in names):
        raise UserError(
            f"{'an adapter for token classification' if told else f'a {names[0]}'}: its head is not served",
            file=folder,
            expected="a language model, or one for sequence classification",
        )
    if told.get("task_type") == "SEQ_CLS" or any(name.endswith("ForSequenceClassification") for name in names):
        return "reward" if len(_labels(folder, base)) == 1 else "classify"
    if any(name.endswith(_CAUSAL) for name in names):
        return None
    # Here, because it takes a second, and a causal language model's driver needs none of it.
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    )

    family = config.get("model_type")
    if config.get("is_encoder_decoder"):
        return "write" if family in MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES else None
    if family not in MODEL_FOR_MASKED_LM_MAPPING_NAMES or config.get("is_decoder"):
        return None
    if told.get("peft_type") in _LEARNED_TOKENS:
        raise UserError(
            "learned tokens before a text are no part of its embedding",
            file=folder,
            field="peft_type",
            expected="an adapter in the layers, such as LoRA",
        )
    return "embed"


def only_causal(folder: Path, task: Task, *, field: str, fix: str) -> UserError:
    """What to tell who would have such a model take adapters, or be one that is taken."""
    got = f"only causal language models take adapters while they are served, and this model {DOES[task]}"
    if task == "write":
        got = got.replace("writes text", "is an encoder-decoder one")
    return UserError(got, file=folder, field=field, fix=f"{fix}; `fettle serve {folder}` serves it by itself")


def _labels(folder: Path, base: Path) -> tuple[str, ...]:
    """One for each row of the head: the model's own, or as transformers calls those without a name."""
    from fettle.models.label_rows import head_rows, labels_in  # imports torch

    count = int(read(base / "config.json").get("num_labels") or 2)
    if found := labels_in(folder):
        return found
    if folder != base:
        rows = head_rows(folder).get("weight")
        if rows is None and (found := labels_in(base)):
            return found  # an adapter over a classifier, whose head stays as it is
        if rows is None:
            raise UserError("an adapter for classification without its head", file=folder, fix="save the head with it")
        count = len(rows)
    return tuple(f"LABEL_{number}" for number in range(count))


def _longest(base: Path, adapter: Path | None, options: EngineOptions) -> int:
    """Tokens of the longest input."""
    most = positions_of(base)
    if adapter is not None:
        most -= int(read(adapter / "adapter_config.json").get("num_virtual_tokens") or 0)
    if options.max_model_len is not None:
        if options.max_model_len > most:
            raise UserError(f"{options.max_model_len} is more than the model's {most} positions", field="max_model_len")
        return options.max_model_len
    if read(base / "config.json").get("is_encoder_decoder"):
        return min(most, _UNBOUNDED)
    told = read(base / "tokenizer_config.json").get("model_max_length")  # MPNet's positions say two more
    return min(most, int(told)) if isinstance(told, (int, float)) and 0 < told < _SANE else most


def _pooling(folder: Path) -> Literal["mean", "first"]:
    """As sentence-transformers wrote it down beside the model; else the mean. Raises UserError for layers of its own
    that are not served."""
    file = folder / "modules.json"
    parts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else []
    kinds = [str(part["type"]).rpartition(".")[2] for part in parts]
    if unknown := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
        raise UserError(f"a layer of sentence-transformers that is not served: {unknown[0]}", file=folder)
    told = read(folder / "1_Pooling" / "config.json")
    modes = [mode for mode, is_on in told.items() if mode.startswith("pooling_mode_") and is_on is True]
    if len(modes) > 1 or any(mode not in _POOLINGS for mode in modes):
        raise UserError(
            f"pooling by {', '.join(modes)}", file=folder / "1_Pooling" / "config.json", expected=" or ".join(_POOLINGS)
        )
    return _POOLINGS[modes[0]] if modes else "mean"
