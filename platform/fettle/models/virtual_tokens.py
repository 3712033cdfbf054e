"""Prefix and prompt tuning over packed rows: every example sees the learned tokens and itself.

PEFT's own forward drops position ids, and with them what tells packed examples apart. The learned tokens see nothing
but each other, so one copy of them at the front of a row serves all its examples: each gets what it would get alone.

Letters: R rows, T tokens of the longest row, P learned tokens.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from peft import PeftModel

_IGNORE = -100  # no label, as transformers has it


def over_packed_rows(model: PeftModel) -> PeftModel:
    """`model`, of prefix or prompt tuning, whose forward takes `input_ids`, `position_ids`, which restart at each
    example, and `labels`, each [R, T], and gives what it has of those tokens, not of the learned ones."""
    changed: Any = model
    changed.forward = functools.partial(_forward, model)
    return model


def visible(position_ids: torch.Tensor, num_learned: int) -> torch.Tensor:
    """Who sees whom, [R, 1, T, P + T] bool: each token the learned ones, and those up to itself of its own example."""
    rows, width = position_ids.shape
    example = (position_ids == 0).cumsum(dim=1)
    causal = torch.ones(width, width, dtype=torch.bool, device=position_ids.device).tril()
    own = (example[:, :, None] == example[:, None, :]) & causal
    return torch.cat([own.new_ones(rows, width, num_learned), own], dim=2)[:, None]


def _forward(
    model: Any, input_ids: torch.Tensor, position_ids: torch.Tensor, labels: torch.Tensor | None = None, **options: Any
) -> Any:
    rows, width = input_ids.shape
    learned = model.active_peft_config.num_virtual_tokens
    mask = visible(position_ids, learned)
    positions = position_ids + learned
    given = {"labels": labels} if labels is not None else {}
    prompt = model.get_prompt(batch_size=rows)
    if not isinstance(prompt, torch.Tensor):  # keys and values of every layer
        mask = _for_attention(model, mask)
        options |= {"attention_mask": mask, "past_key_values": prompt, "position_ids": positions}
        return model.base_model(input_ids=input_ids, **given, **options)
    embedded = model.base_model.get_input_embeddings()(input_ids)
    first = torch.ones(learned, learned + width, dtype=torch.bool, device=mask.device).tril()
    mask = torch.cat([first.expand(rows, 1, -1, -1), mask], dim=2)
    places = torch.arange(learned, device=positions.device).expand(rows, -1)
    if labels is not None:
        given["labels"] = torch.cat([labels.new_full((rows, learned), _IGNORE), labels], dim=1)
    output = model.base_model(
        inputs_embeds=torch.cat([prompt.to(embedded.dtype), embedded], dim=1),
        position_ids=torch.cat([places, positions], dim=1),
        attention_mask=_for_attention(model, mask),
        **given,
        **options,
    )
    if isinstance(output, torch.Tensor):
        return output[:, learned:]
    for name in ("logits", "log_probs"):
        if output.get(name) is not None:
            output[name] = output[name][:, learned:]
    return output


def _for_attention(model: Any, mask: torch.Tensor) -> torch.Tensor:
    """The mask as the model's attention takes it: torch's a bool; transformers' eager one (GPT-J, Gemma 2) adds it to
    its scores, and would take True and False for 1 and 0."""
    if model.config._attn_implementation != "eager":
        return mask
    dtype = model.get_input_embeddings().weight.dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)
