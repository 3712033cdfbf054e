"""What can be told of weights and adapters from their files alone, without loading a tensor."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from fettle.engine.env import CPU_HEAD_SIZES, device, head_size, vllm_rank
from fettle.errors import UserError
from fettle.models.mergeable import why_not_merged

Shapes = dict[str, tuple[int, ...]]

_HEADER_MOST = 100_000_000  # what the safetensors library itself accepts
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json", "spiece.model")
_UNSERVED_HEADS = ("SequenceClassification", "TokenClassification", "MaskedLM", "QuestionAnswering")


def check_model(folder: Path) -> Shapes:
    """Shapes of the model's tensors, of a folder that `resolve_base` has passed. Raises UserError for what else would
    fail only once the engine loads it."""
    check_no_code(folder)
    config = read(folder / "config.json")
    for head in _UNSERVED_HEADS:
        if any(head in str(name) for name in config.get("architectures") or ()):
            raise UserError(
                f"a {config['architectures'][0]} generates no text",
                file=folder / "config.json",
                field="architectures",
                expected="a causal language model",
            )
    if config.get("is_encoder_decoder"):
        raise UserError(
            f"a {config.get('model_type')} reads with an encoder and writes with a decoder; vLLM serves no such text"
            " models any more",
            file=folder / "config.json",
            field="is_encoder_decoder",
            expected="a causal language model",
            fix="serve it by itself with `fettle serve`, or ask it with `fettle eval`",
        )
    size = head_size(config)
    if device() == "cpu" and size is not None and size not in CPU_HEAD_SIZES:
        raise UserError(
            f"attention heads of {size}; vLLM on a CPU does not have them",
            file=folder / "config.json",
            field="head_dim",
            expected=", ".join(str(one) for one in CPU_HEAD_SIZES),
        )
    check_tokenizer(folder)
    packed = 32 // _bits(config)
    return {
        name.removesuffix("_packed"): (*shape[:-1], shape[-1] * packed) if name.endswith("_packed") else shape
        for name, shape in _model_shapes(folder).items()
    }


def check_no_code(folder: Path) -> None:
    """Raises UserError for a model that wants to run code of its own."""
    for name in ("config.json", "generation_config.json", "tokenizer_config.json"):
        if "auto_map" in read(folder / name):
            raise UserError(
                "it wants to run code of its own (auto_map), which fettle never does",
                file=folder / name,
                fix="use a model whose architecture transformers has",
            )


def has_tokenizer(folder: Path) -> bool:
    """Whether one lies there."""
    return any((folder / name).is_file() for name in _TOKENIZER_FILES)


def check_tokenizer(folder: Path) -> None:
    """Raises UserError where none lies there."""
    if not has_tokenizer(folder):
        raise UserError(
            "no tokenizer beside the weights", file=folder, expected="tokenizer.json", fix="save the tokenizer there"
        )


def why_not_applied(folder: Path) -> tuple[str, str] | None:
    """What of the adapter in a folder vLLM does not apply, and what to do instead; None where it applies all."""
    found = next(iter(_unsupported(read(folder / "adapter_config.json")).values()), None)
    if found is None:
        return None
    if why_not_merged(folder, several=False) is None:
        return found, f"fettle merge {folder} --out FOLDER, and serve that"
    return found, "train a lora adapter, or use this one from Python (docs/adapters.md)"


def check_adapter(folder: Path, base: Shapes) -> int:
    """The adapter's rank. Raises UserError if vLLM cannot apply it, or if it was made for a base of other shapes."""
    file = folder / "adapter_config.json"
    config = read(file)
    if found := why_not_applied(folder):
        what, instead = found
        field = next(iter(_unsupported(config)))
        raise UserError(f"vLLM does not apply {what}", file=file, field=field, expected="a LoRA adapter", fix=instead)
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if not all(isinstance(rank, int) and rank > 0 for rank in ranks):
        raise UserError(f"{ranks[0]!r} is no rank", file=file, field="r", expected="a positive whole number")
    try:
        vllm_rank(max(ranks))
    except UserError as error:
        raise UserError(error.got, file=file, field="r", fix=error.fix) from None
    weights = folder / "adapter_model.safetensors"
    if not weights.is_file():
        unsafe = (folder / "adapter_model.bin").is_file()
        raise UserError(
            "no adapter_model.safetensors"
            + (", only adapter_model.bin, which can run code when loaded" if unsafe else ""),
            file=folder,
            fix="save the adapter with safetensors" if unsafe else None,
        )
    _check_fit(weights, tensor_shapes(weights), base)
    return max(ranks)


def tensor_shapes(file: Path) -> Shapes:
    """Name and shape of each tensor in a safetensors file. Raises UserError if the file is cut short or is none."""
    length = file.stat().st_size
    try:
        with open(file, "rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            if size > min(_HEADER_MOST, length):
                raise ValueError
            header = json.loads(stream.read(size))
        header.pop("__metadata__", None)
        if header and max(told["data_offsets"][1] for told in header.values()) + 8 + size != length:
            raise ValueError
        return {name: tuple(told["shape"]) for name, told in header.items()}
    except (struct.error, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(
            f"not a whole safetensors file ({length} bytes)", file=file, fix="copy or download it again"
        ) from None


def read(file: Path) -> dict[str, Any]:
    """A JSON file's object; empty where there is no such file. Raises UserError if it is not JSON."""
    if not file.is_file():
        return {}
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"not valid JSON ({error})", file=file) from None
    if not isinstance(told, dict):
        raise UserError("not a JSON object", file=file)
    return told


def _model_shapes(folder: Path) -> Shapes:
    index = folder / "model.safetensors.index.json"
    for name in sorted(set((read(index).get("weight_map") or {}).values())):
        if not (folder / name).is_file():
            raise UserError(f"{name} is missing", file=index, fix="copy or download the model again")
    shapes: Shapes = {}
    for file in sorted(folder.glob("*.safetensors")):
        shapes |= tensor_shapes(file)
    return shapes


def _bits(config: dict[str, Any]) -> int:
    """Of a quantised model's weights; several of them lie in one 32-bit number where it is called `weight_packed`."""
    groups = (config.get("quantization_config") or {}).get("config_groups") or {}
    return next((int(group["weights"].get("num_bits", 8)) for group in groups.values() if group.get("weights")), 32)


def _unsupported(config: dict[str, Any]) -> dict[str, str]:
    """Field and description of what vLLM's PEFTHelper would refuse, by the same rules, once the engine is up."""
    plain = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
    start = config.get("init_lora_weights", True)
    kind = config.get("peft_type")
    found = {
        "peft_type": (f"an adapter of type {kind}", str(kind).upper() != "LORA"),
        "use_dora": ("DoRA", config.get("use_dora")),
        "bias": ("an adapter with biases", config.get("bias", "none") != "none"),
        "lora_bias": ("an adapter with biases", config.get("lora_bias")),
        "modules_to_save": (f"whole modules ({config.get('modules_to_save')})", config.get("modules_to_save")),
        "trainable_token_indices": ("trained token rows", config.get("trainable_token_indices")),
        "layer_replication": ("replicated layers", config.get("layer_replication")),
        "alora_invocation_tokens": ("activated LoRA", config.get("alora_invocation_tokens")),
        "use_qalora": ("QALoRA", config.get("use_qalora")),
        "use_bdlora": ("block-diagonal LoRA", config.get("use_bdlora")),
        "init_lora_weights": (f"an adapter begun with {start}", isinstance(start, str) and start.lower() not in plain),
    }
    return {field: what for field, (what, given) in found.items() if given}


def _check_fit(file: Path, adapter: Shapes, base: Shapes) -> None:
    """Every A [r, in] and B [out, r] must meet a base weight [out, in] (or [in, out], as GPT-2 stores it)."""
    known, unknown = 0, ""
    for name, (_, inputs) in ((n, s) for n, s in adapter.items() if n.endswith(".lora_A.weight")):
        module = name.removesuffix(".lora_A.weight")
        weight = base.get(f"{module.removeprefix('base_model.model.')}.weight")
        outputs = adapter.get(f"{module}.lora_B.weight", (None,))[0]
        if weight is None:
            unknown = unknown or module
        elif (outputs, inputs) not in (weight, weight[::-1]):
            raise UserError(
                f"it was not made for this base: {module} is {outputs} x {inputs} here and "
                f"{' x '.join(str(side) for side in weight)} there",
                file=file,
            )
        else:
            known += 1
    if known and unknown and not unknown.endswith("lm_head"):
        raise UserError(f"it was not made for this base, which has no {unknown}", file=file)
    if not any(".lora_A." in name for name in adapter):
        raise UserError("it holds no LoRA weights", file=file)
