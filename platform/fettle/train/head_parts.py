"""A language model's output head, read at some tokens, a part of them at a time: the logits of all are never held.

Letters: N tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import PreTrainedModel
from trl.trainer.utils import maybe_gather_lm_head_ctx

Part = Callable[[torch.Tensor, slice], list[torch.Tensor]]
"""Of some tokens' logits, float32 [n, V], and which of the N they are, sums over them, each a scalar."""


def read_hidden_states(model: PreTrainedModel) -> None:
    """Lets `model(…, read=f)` give f(hidden states [R, T, D], the model's Head). Inside the model's forward, where an
    engine has its weights in place and autocast holds; to be called before an adapter is laid over the model."""
    forward = model.forward

    @functools.wraps(type(model).forward)
    def run(self: Any, *args: Any, read: Any = None, **kwargs: Any) -> Any:
        if read is None:
            return forward(*args, **kwargs)
        return read(self.base_model(*args, **kwargs).last_hidden_state, Head(self))

    model.forward = types.MethodType(run, model)


class Head:
    """Hidden states, [N, D], to logits, float32 [N, V], as the model's own forward makes them."""

    def __init__(self, model: Any) -> None:
        config = model.config.get_text_config()
        self.vocab = int(config.vocab_size)
        self._project = model.get_output_embeddings()
        self._cap = getattr(config, "final_logit_softcapping", None)
        self._scale = _scale_of(config)

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self._finished(self._project(hidden))

    def sums(self, hidden: torch.Tensor, part: Part, num_parts: int) -> list[torch.Tensor]:
        """Those of all tokens, the first with a gradient, whose part in each of `num_parts` is worked out at once.

        An output head that is no plain linear layer, as with LoRA on it, gets all logits in one part.
        """
        if type(self._project) is not torch.nn.Linear:
            return part(self(hidden), slice(None))
        weights: Any = self._project.weight, self._project.bias
        # Not through the layer: with ZeRO 3 each call of it gathers, which all workers would have to do equally often.
        with maybe_gather_lm_head_ctx(*weights):
            inputs = [hidden, *weights]
            if not torch.is_grad_enabled():
                inputs = [one if one is None else one.detach() for one in inputs]
            return list(_InParts.apply(self._finished, part, num_parts, *inputs))

    def _finished(self, projected: torch.Tensor) -> torch.Tensor:
        logits = projected.float() * self._scale
        return logits if self._cap is None else torch.tanh(logits / self._cap) * self._cap


class _InParts(torch.autograd.Function):
    """The gradient is worked out on the way forward, where a part's logits are at hand, and kept in their place."""

    @staticmethod
    def forward(
        ctx: Any,
        finished: Callable[[torch.Tensor], torch.Tensor],
        part: Part,
        num_parts: int,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        given: list[Any] = [hidden, weight, bias]
        needed = [place for place, is_needed in enumerate(ctx.needs_input_grad[3:]) if is_needed]
        gradients = {place: torch.zeros_like(given[place]) for place in needed}
        total: list[torch.Tensor] = []
        kind = hidden.device.type
        # Autocast would keep a cast copy of the weight for each part.
        like: dict[str, Any] = {"dtype": torch.get_autocast_dtype(kind), "enabled": torch.is_autocast_enabled(kind)}
        bounds = [len(hidden) * number // num_parts for number in range(num_parts + 1)]
        for piece in (slice(*ends) for ends in pairwise(bounds)):
            leaves: list[Any] = [one if one is None else one.detach() for one in (hidden[piece], weight, bias)]
            for place in needed:
                leaves[place].requires_grad_()
            with torch.set_grad_enabled(bool(needed)), torch.autocast(kind, **like, cache_enabled=False):
                found = part(finished(linear(*leaves)), piece)
            if needed:
                made = torch.autograd.grad(found[0], [leaves[place] for place in needed])
                for place, gradient in zip(needed, made, strict=True):
                    (gradients[place][piece] if place == 0 else gradients[place]).add_(gradient)
            total = [one.detach() + (total[at] if total else 0) for at, one in enumerate(found)]
        ctx.save_for_backward(*gradients.values())
        ctx.needed = needed
        ctx.mark_non_differentiable(*total[1:])
        return tuple(total)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor, *others: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = dict(zip(ctx.needed, ctx.saved_tensors, strict=True))
        return (None, None, None, *(gradient * found[place] if place in found else None for place in range(3)))


def _scale_of(config: Any) -> float:
    """What a model multiplies its logits by, under whichever name its configuration has it (as TRL 1.16 finds it)."""
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if (scale := getattr(config, name, None)) is not None:
            return float(scale)
    scaling = getattr(config, "logits_scaling", None)
    if scaling is None:
        return 1.0
    return float(scaling) if config.model_type == "hyperclovax" else 1 / float(scaling)
