"""Torch's attention over packed rows on a CPU, record by record.

torch's kernel for CPUs computes all T² products of a packed row and then masks those between records away; only under
`is_causal` does it leave out what lies above the diagonal. So each record is given to it alone. The same sums in the
same order: of a row of 512 tokens of instructions a quarter of the products, and a tenth to a sixth off a whole step
(`benchmarks/sft.py`).

Letters: R rows, T tokens of a row, H heads, D their width.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fettle.models.attention import plain

_NAME = "fettle_by_record"
_SLOW_IN_LOW = 256
"""Tokens up to which torch's CPU kernel takes longer in bfloat16, forward and back, than in float32 with both casts
(torch 2.13, AVX512_BF16 and AMX: 3.1 against 0.8 ms at 128 tokens of 8 heads of 32, 10.6 against 9.8 at 512)."""


def attend_by_record(model: Any) -> None:
    """Makes a model on a CPU that has torch's attention, an adapter in it or not, attend so; leaves any other alone."""
    base = plain(model)
    if not isinstance(base, PreTrainedModel) or base.config._attn_implementation != "sdpa":
        return
    if base._can_set_attn_implementation():
        base.set_attn_implementation(_NAME)


def records_of(mask: torch.Tensor | None) -> list[list[int]] | None:
    """The lengths of the records of each row, where a mask, bool [R, 1, T, T], lets each token see those of its record
    up to itself and nothing else; None where it lets it see anything more or less, such as a window of them."""
    if mask is None or mask.dtype != torch.bool or mask.device.type != "cpu" or mask.shape[-1] != mask.shape[-2]:
        return None
    seen = mask[:, 0]
    first, column = seen.to(torch.uint8).argmax(-1), torch.arange(mask.shape[-1])
    if not torch.equal(seen, (column >= first[..., None]) & (column <= column[:, None])):
        return None
    if not torch.equal(first.gather(-1, first), first):  # within a window the first token seen has seen others
        return None
    return [[len([*same]) for _, same in groupby(row)] for row in first.tolist()]


def _mask(*args: Any, **told: Any) -> torch.Tensor | None:
    """As transformers makes it for torch's attention, once for all layers, with what `records_of` finds."""
    mask: Any = sdpa_mask(*args, **told)
    lengths = records_of(mask)
    if lengths is not None:
        mask.records = lengths
    return mask


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **told: Any,
) -> tuple[torch.Tensor, None]:
    """query: [R, H, T, D]; key, value: the same with H or fewer heads. Gives [R, T, H, D]."""
    lengths = getattr(attention_mask, "records", None)
    if lengths is None or told.get("position_bias") is not None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **told)
    found = []
    for row, of_row in enumerate(lengths):  # split and not cut out: its way back writes each gradient once
        queries, keys, values = (one[row : row + 1].split(of_row, dim=2) for one in (query, key, value))
        parts = zip(queries, keys, values, strict=True)
        found += [_record(q, k, v, told.get("scaling"), told.get("dropout", 0.0)) for q, k, v in parts]
    rows, heads, tokens, _ = query.shape
    return torch.cat(found, dim=1).view(rows, tokens, heads, -1), None


def _record(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float | None, dropout: float
) -> torch.Tensor:
    """Of one record, [1, tokens, H, D]."""
    given = query.dtype
    if query.shape[2] <= _SLOW_IN_LOW:
        query, key, value = query.float(), key.float(), value.float()
    is_grouped = query.shape[1] != key.shape[1]
    found = torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=is_grouped
    )
    return found.to(given).transpose(1, 2)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
