"""What a forward and a backward pass hold in memory: the model's own code run on tensors of shapes without content.

torch's fake tensors go through every operation of the model as its weights would; each storage is counted from the
operation that makes it until nothing refers to it any more, so what autograd saves, what gradient checkpointing drops
and what lies about for a moment are all counted, for any architecture. One layer of each type is run, and two: what one
layer more keeps is the difference, and the rest follows by arithmetic (70 billion weights take half a second).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fettle.models.attention import Attention, plain
from fettle.models.layers import layers_of
from fettle.models.precision import LOW
from fettle.needs.few_layers import checkpoint_layers, cycle_of, few_layers
from fettle.recipe.adapter import AdapterSpec
from fettle.recipe.cluster import Precision


@dataclass(frozen=True)
class Micro:
    """One micro-batch as a worker runs it. tokens: of a row. logits: whether all of them are held, in float32 (on GPUs
    a fused head never does). attention: as a recipe says it."""

    rows: int
    tokens: int
    precision: Precision = "fp32"
    checkpointing: bool = False
    logits: bool = True
    attention: Attention | None = None

    @property
    def total(self) -> int:
        """Tokens, padding among them."""
        return self.rows * self.tokens


@dataclass(frozen=True)
class Passes:
    """Bytes of one pass over a micro-batch, beside weights and gradients.

    top: the most while the head and the last layer are at work, with what all layers below keep. bottom: the most while
    the first layer and the embeddings are, with nothing kept above them. kept: by the layers between the two. forward:
    the most of a pass that keeps nothing for a way back, as held-out records are measured by.
    """

    top: int
    bottom: int
    kept: int
    forward: int


@functools.lru_cache(maxsize=256)
def passes(config_json: str, adapter: AdapterSpec, micro: Micro) -> Passes:
    """Of a model by its transformers configuration (`config_text`). Raises NotImplementedError where its code cannot be
    run so, as that of mixtures of experts, which look at the content of tensors."""
    try:
        return _passes(config_json, adapter, micro)
    except Exception as error:  # whatever code of whatever architecture makes of tensors without content
        raise NotImplementedError(str(error)) from None


def _passes(config_json: str, adapter: AdapterSpec, micro: Micro) -> Passes:
    config = config_of(config_json)
    total, cycle = int(config.get_text_config().num_hidden_layers), cycle_of(config)
    one = _traced(config_json, cycle, adapter, micro, None)
    if total <= cycle:
        return Passes(one.top, one.bottom, 0, one.forward)
    two = _traced(config_json, 2 * cycle, adapter, micro, None)
    kept, more = two.saved - one.saved, total - cycle
    if adapter.kind in ("lisa", "freeze"):
        # Of layers that are not trained the inputs of matrices are not kept; below a frozen one nothing is.
        trained = min(adapter.layers or 0, total)
        frozen = (
            _traced(config_json, 2 * cycle, adapter, micro, cycle).saved - one.saved if adapter.kind == "lisa" else 0
        )
        between = max(0, trained - cycle) * kept // cycle + (total - max(trained, cycle)) * frozen // cycle
    else:
        between = more * kept // cycle
    return Passes(one.top + between, one.bottom, between, one.forward)


def passes_by_rule(hidden: int, layers: int, vocabulary: int, micro: Micro, *, times: int = 1) -> Passes:
    """The same by a rule, where a model's code cannot be run without content: of each token each layer keeps 34 bytes a
    unit of its width in 16 bits, and twice that in 32 (Korthikanti et al. 2022, arXiv:2205.05198, equation 1, without
    attention's matrices, which torch's attention does not keep). times: a margin."""
    size = 2 if micro.precision in LOW else 1
    layer = 68 // size * hidden * micro.total * times
    kept = 4 // size * hidden * micro.total * times if micro.checkpointing else layer
    head = 12 * (vocabulary if micro.logits else hidden) * micro.total * times
    return Passes(kept * (layers - 1) + layer + head, 2 * layer, kept * (layers - 1), head)


def config_text(config: Any) -> str:
    """A configuration as a hashable text."""
    return json.dumps(config.to_dict(), sort_keys=True, default=str)


def config_of(text: str) -> Any:
    """The configuration of `config_text`; a new one, since transformers notes in it the type of what is made of it."""
    from transformers import CONFIG_MAPPING

    keys = json.loads(text)
    return CONFIG_MAPPING[keys.pop("model_type")].from_dict(keys)


@dataclass(frozen=True)
class _Traced:
    saved: int
    top: int
    bottom: int
    forward: int


@functools.lru_cache(maxsize=1024)
def _traced(config_json: str, depth: int, adapter: AdapterSpec, micro: Micro, frozen: int | None) -> _Traced:
    """The passes of a model of so many layers. frozen: so many of the lower ones are not trained."""
    model = few_layers(config_of(config_json), depth, adapter, micro.precision, micro.attention, frozen=frozen)
    mode = FakeTensorMode()
    _fake(model, mode)
    with mode:
        if micro.checkpointing:
            checkpoint_layers(model, adapter)
        model.train()
        batch = _batch(plain(model), micro)
        counted = _Counted([*model.parameters(), *model.buffers(), *batch.values()])
        for weight in model.parameters():
            if weight.requires_grad:
                weight.register_post_accumulate_grad_hook(counted.is_gradient)
        inside = [w for w in layers_of(plain(model).base_model).parameters() if w.requires_grad]
        with counted, torch.no_grad():
            if depth == cycle_of(config_of(config_json)):
                _loss(model, batch, micro)
        forward = counted.most
        counted.most = 0
        with counted:
            loss = _loss(model, batch, micro)
            saved = counted.live
            counted.until(inside)
            loss.backward()
        return _Traced(saved, counted.most_until, counted.most, forward)


class _Counted(TorchDispatchMode):
    """Counts storages that operations make, while they live; those of gradients apart.

    most: of the rest, at any time; most_until: up to the gradients of some weights.
    """

    def __init__(self, known: list[torch.Tensor]) -> None:
        super().__init__()
        self.live, self.most, self.most_until = 0, 0, 0
        self._left: int | None = None
        self._sizes = {one.untyped_storage()._cdata: 0 for one in known}
        self._kept = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in tree_leaves(found):
            if isinstance(one, torch.Tensor):
                storage = one.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self._freed, storage._cdata)
        self.most = max(self.most, self.live)
        if self._left is None or self._left:
            self.most_until = max(self.most_until, self.live)
        return found

    def is_gradient(self, weight: torch.Tensor) -> None:
        """Its gradient is there now, and counted elsewhere."""
        assert weight.grad is not None
        key = weight.grad.untyped_storage()._cdata
        self.live -= self._sizes.get(key, 0)
        self._sizes[key] = 0
        if self._left is not None and id(weight) in self._wanted:
            self._left -= 1

    def until(self, weights: Sequence[torch.Tensor]) -> None:
        """`most_until` ends when these have their gradients; without any, never."""
        self._wanted = {id(weight) for weight in weights}
        self._left = len(weights) or None

    def _freed(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


def _batch(model: Any, micro: Micro) -> dict[str, torch.Tensor]:
    ids = torch.zeros(micro.rows, micro.tokens, dtype=torch.int64)
    batch = {"input_ids": ids, "position_ids": torch.arange(micro.tokens).repeat(micro.rows, 1)}
    if model.config.is_encoder_decoder:
        batch["decoder_input_ids"] = ids
    known = inspect.signature(type(model).forward).parameters
    return {name: value for name, value in batch.items() if name in known}


def _loss(model: Any, batch: dict[str, torch.Tensor], micro: Micro) -> torch.Tensor:
    low = LOW.get(micro.precision)
    with torch.autocast("cpu", dtype=low) if low is not None else contextlib.nullcontext():
        if not micro.logits or plain(model).get_output_embeddings() is None:
            body = plain(model).base_model
            hidden = body(**batch, **_without_cache(model)).last_hidden_state
            return hidden.float().sum()
        logits = model(**batch, **_without_cache(model)).logits.flatten(0, 1).float()
    return torch.nn.functional.cross_entropy(logits, batch["input_ids"].flatten(), reduction="none").sum()


def _without_cache(model: Any) -> dict[str, bool]:
    return {"use_cache": False} if hasattr(plain(model).config, "use_cache") else {}


def _fake(model: torch.nn.Module, mode: FakeTensorMode) -> None:
    """Puts tensors on a CPU, as the mode knows them, in place of those on the meta device: what they are computed by
    differs between the two. (PEFT cannot be attached to a model of the mode's own.)"""
    made: dict[int, Any] = {}
    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None and id(weight) not in made:
                there = FakeTensor(mode, weight.detach(), torch.device("cpu"))
                made[id(weight)] = torch.nn.Parameter(there, requires_grad=weight.requires_grad)
            if weight is not None:
                module._parameters[name] = made[id(weight)]
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = FakeTensor(mode, buffer.to("meta"), torch.device("cpu"))
        prompts = getattr(module, "prompt_tokens", None) or {}  # which PEFT keeps as no buffer
        for name, tokens in prompts.items():
            prompts[name] = FakeTensor(mode, tokens.to("meta"), torch.device("cpu"))
