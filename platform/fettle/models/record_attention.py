"""Torch's attention over packed rows on a CPU, record by record.

torch's kernel for CPUs computes all T² products of a packed row and then masks those between records away; only under
`is_causal` does it leave out what lies above the diagonal, and that in blocks of 512. So each record is given to it
alone, in parts where it is long. Of a row of 512 tokens of instructions a quarter of the products, and a tenth to a
sixth off a whole step (`benchmarks/sft.py`).

Letters: R rows, T tokens of a row, H heads, D their width.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import Any

import torch
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fettle.models.attention import plain

_NAME = "fettle_by_record"
_WHOLE = 512
"""Keys that torch's CPU kernel takes at a time, also where `is_causal` says that most of them are not seen."""
_PART = 128
"""Queries of a longer record that are given to it at a time, with those keys that they see."""


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
    low = query.dtype
    if torch.is_autocast_enabled("cpu"):  # which would cast to it whatever torch's attention is given
        low = torch.get_autocast_dtype("cpu")
    found = []
    with torch.autocast("cpu", enabled=False):
        for row, of_row in enumerate(lengths):  # split and not cut out: its way back writes each gradient once
            queries, keys, values = (one[row : row + 1].split(of_row, dim=2) for one in (query, key, value))
            parts = zip(queries, keys, values, strict=True)
            found += [_record(q, k, v, low, told.get("scaling"), told.get("dropout", 0.0)) for q, k, v in parts]
    rows, heads, tokens, _ = query.shape
    return torch.cat(found, dim=1).view(rows, tokens, heads, -1), None


def _record(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    low: torch.dtype,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """Of one record, [1, tokens, H, D], in `low` or in float32 where that is faster."""
    tokens, width = query.shape[2:]
    used = torch.float32 if low.itemsize < 4 and _is_slow_in_low(tokens, width) else low
    query, key, value = query.to(used), key.to(used), value.to(used)
    told: Any = {"dropout_p": dropout, "scale": scaling, "enable_gqa": query.shape[1] != key.shape[1]}
    attend = torch.nn.functional.scaled_dot_product_attention
    if used != torch.float32 or not 2 * _PART < tokens <= _WHOLE:
        return attend(query, key, value, is_causal=True, **told).to(low).transpose(1, 2)
    found, end = [], 0
    for part in query.split(_PART, dim=2):  # each of them with what it may see: 5.7 for 7.6 ms at 487 tokens
        start, end = end, end + part.shape[2]
        mask = _causal()[start:end, :end]
        found.append(attend(part, key[:, :, :end], value[:, :, :end], attn_mask=mask, **told))
    return torch.cat(found, dim=2).to(low).transpose(1, 2)


def _is_slow_in_low(tokens: int, width: int) -> bool:
    """Whether torch's CPU kernel takes longer in bfloat16 than in float32, forward and back.

    torch 2.13, AVX512_BF16 and AMX, ms: D = 32: 1.4 against 0.7 at 128 tokens, 7.1 against 6.3 at 512; D = 64: 3.0
    against 2.4 at 160, 3.8 against 5.0 at 256; D = 128: the same at 128.
    """
    return tokens <= 512 * (32 / width) ** 1.5


@lru_cache(1)
def _causal() -> torch.Tensor:
    """[_WHOLE, _WHOLE], what is added to the products: nothing to what is seen."""
    with torch.inference_mode(False):  # wherever it is made first, gradients may want it later
        return torch.full((_WHOLE, _WHOLE), -torch.inf, dtype=torch.float32, device="cpu").triu(1)


AttentionInterface.register(_NAME, _attention)
AttentionMaskInterface.register(_NAME, _mask)
