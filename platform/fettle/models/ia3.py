"""Where (IA)³ puts its factors: on keys, values and what a feed-forward's last layer reads (Liu et al. 2022,
arXiv:2205.05638, section 3.3). PEFT's own table scales queries for keys in some models (Qwen, Gemma)."""

from __future__ import annotations

from collections.abc import Iterable

_KEYS_AND_VALUES = ("k_proj", "v_proj", "key", "value", "query_key_value", "qkv_proj", "Wqkv", "c_attn", "k", "v")
# Where a name is an attention's output too, with the module it lies in.
_FEED_FORWARD = ("down_proj", "dense_4h_to_h", "fc2", "fc_out", "w2", "wo", "mlp.c_proj", "mlp.fc_out", "output.dense")


def ia3_places(names: Iterable[str]) -> tuple[list[str], list[str]]:
    """(endings of the names of the layers that are scaled, those of them that are scaled where they read), of the names
    of a model's modules; nothing where it has no keys and values, or no feed-forward, by a usual name.

    Where one layer gives queries, keys and values, all three are scaled.
    """
    found = list(names)
    attention = [end for end in _KEYS_AND_VALUES if any(_ends(name, end) for name in found)]
    feed_forward = [end for end in _FEED_FORWARD if any(_ends(name, end) for name in found)]
    return (attention + feed_forward, feed_forward) if attention and feed_forward else ([], [])


def _ends(name: str, ending: str) -> bool:
    return name == ending or name.endswith(f".{ending}")
