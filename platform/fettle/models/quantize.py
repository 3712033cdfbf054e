"""Weights rounded to integers: each to the nearest of 2^bits steps between ± the largest of its row or group.

Round-to-nearest, symmetric, without calibration data; computed and packed by compressed-tensors, in the two formats
that vLLM has kernels for on CPU and GPU: 8 bits a scale for each row (inputs rounded token by token while serving),
4 bits a scale for each group of neighbours in a row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from compressed_tensors.compressors import ModelCompressor
from compressed_tensors.compressors.base import compress_module
from compressed_tensors.quantization import (
    QuantizationArgs,
    QuantizationConfig,
    QuantizationScheme,
    QuantizationStatus,
    QuantizationStrategy,
    apply_quantization_config,
)
from compressed_tensors.quantization.utils import calculate_qparams
from transformers import PreTrainedModel

from fettle.artifact import library_versions, new_artifact
from fettle.models.base import digest_of, dtype_of, load_weights
from fettle.models.licences import inherited
from fettle.models.merge import Combination, as_its_base, merged_weights, untrained
from fettle.models.quantizable import quantized_layers


def quantize_weights(model: PreTrainedModel, bits: int, group: int | None) -> ModelCompressor:
    """Packs the model's linear layers but for its output head, in place; embeddings and norms stay as they are.

    group: weights that share a scale; None for a row. Gives what writes the model's `quantization_config`. A scale is
    rounded to the model's type before the weights are divided by it, since that is how it is stored.
    """
    layers = quantized_layers(model)
    ignored = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and name not in layers]
    scheme = _scheme(bits, group)
    apply_quantization_config(model, QuantizationConfig(config_groups={"group_0": scheme}, ignore=ignored))
    for layer in layers.values():
        _pack(layer, scheme.weights)
    compressor = ModelCompressor.from_pretrained_model(model)
    compressor.quantization_config.quantization_status = QuantizationStatus.COMPRESSED
    return compressor


def write_quantized(
    artifact: Path,
    base: Path,
    adapter: Path | None,
    *,
    bits: int,
    group: int | None,
    name: str,
    fingerprint: str,
    end_ids: Sequence[int],
    chat_template: str | None,
    may_commit: Callable[[], None] = lambda: None,
    recipe: str = "",
) -> None:
    """Writes the base, with the adapter merged into it where there is one, quantised, as an artifact."""
    began = time.monotonic()
    model: Any = (
        load_weights(base, dtype_of(base)) if adapter is None else merged_weights(Combination(base, (adapter,), (1.0,)))
    )
    tokenizer = as_its_base(model, base, end_ids, chat_template)
    compressor = quantize_weights(model, bits, group)
    with new_artifact(
        artifact,
        kind="model",
        name=name,
        fingerprint=fingerprint,
        may_commit=may_commit,
        parents=tuple(digest_of(one) for one in (base, adapter) if one is not None),
        recipe=recipe,
        versions=library_versions() | {"compressed-tensors": metadata.version("compressed-tensors")},
        metrics=untrained(time.monotonic() - began),
        quantized={"bits": bits, "group": group},
        **inherited(one for one in (base, adapter) if one is not None),
    ) as folder:
        model.save_pretrained(folder)
        compressor.update_config(folder)
        tokenizer.save_pretrained(folder)


def _scheme(bits: int, group: int | None) -> QuantizationScheme:
    if group is not None:
        weights = QuantizationArgs(num_bits=bits, strategy=QuantizationStrategy.GROUP, group_size=group)
        return QuantizationScheme(targets=["Linear"], weights=weights)
    inputs = QuantizationArgs(num_bits=bits, strategy=QuantizationStrategy.TOKEN, dynamic=True)
    weights = QuantizationArgs(num_bits=bits, strategy=QuantizationStrategy.CHANNEL)
    return QuantizationScheme(targets=["Linear"], weights=weights, input_activations=inputs)


def _pack(layer: Any, args: QuantizationArgs) -> None:
    """Puts the integers and their scales in place of a layer's weights, [out, in]."""
    dtype = layer.weight.dtype
    weight = layer.weight.detach().float()
    groups = weight if args.group_size is None else weight.unflatten(1, (-1, args.group_size))
    is_row = args.group_size is None
    scale, _ = calculate_qparams(groups.amin(-1, keepdim=is_row), groups.amax(-1, keepdim=is_row), args)
    scale = scale.to(dtype)
    # In float32: divided in bfloat16, whose numbers above 64 are a half apart, 8-bit weights would land a step off.
    layer.weight = torch.nn.Parameter(weight, requires_grad=False)
    layer.weight_scale = torch.nn.Parameter(scale.float(), requires_grad=False)
    compress_module(layer)
    layer.weight_scale = torch.nn.Parameter(scale, requires_grad=False)
