"""What is to be served: a name or a folder turned into a base, its adapters and their names. Reads files only."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from fettle.artifact import is_artifact, read_artifact
from fettle.engine.env import EngineOptions, positions, resolved_dtype
from fettle.engine.supports import has_lora
from fettle.errors import UserError
from fettle.models.base import BUNDLED, digest_of, resolve_base, template_in
from fettle.serving.tasks import CHAT, COMPLETE
from fettle.serving.weights import Shapes, check_adapter, check_model, read

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}")
PLACES = 32
_IN_ONE_BATCH = 8
_PUBLISHED_RANK = 64
_HASHED_BYTES = 1 << 30
_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty")


@dataclass(frozen=True)
class ServedAdapter:
    """An adapter over the base. defaults: request fields that its folder wants otherwise than the base's."""

    name: str
    folder: Path
    rank: int
    defaults: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ServedModel:
    """A base under `name` and adapters under theirs. primary: the name of what was asked for. chats: whether the
    primary has a chat template. tool_parser: vLLM's name of its way to call tools. registry: a folder whose published
    adapters are served too, `places` of them held at a time. digest: of a published version, which answers name."""

    name: str
    folder: Path
    primary: str
    chats: bool
    adapters: tuple[ServedAdapter, ...] = ()
    registry: Path | None = None
    places: int = PLACES
    tool_parser: str | None = None
    digest: str | None = None

    def called(self, version: str, digest: str) -> ServedModel:
        """The same, as a published version."""
        return replace(self, name=version, primary=version, digest=digest)

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that a request may give as `model`."""
        return (self.name, *(adapter.name for adapter in self.adapters))

    @property
    def example(self) -> tuple[str, dict[str, Any]]:
        """A route, and a request to it."""
        asked = {"messages": [{"role": "user", "content": "Hello"}]} if self.chats else {"prompt": "Once upon a time"}
        return CHAT if self.chats else COMPLETE, {"model": self.primary, **asked, "max_tokens": 64}

    @property
    def defaults(self) -> dict[str, dict[str, Any]]:
        """Request fields to fill in, by name."""
        return {adapter.name: adapter.defaults for adapter in self.adapters if adapter.defaults}


def resolve(
    model: str | Path,
    *,
    name: str | None = None,
    adapters: Mapping[str, str | Path] | None = None,
    registry: str | Path | None = None,
    places: int = PLACES,
    tool_parser: str | None = None,
) -> ServedModel:
    """What `fettle serve` offers for a bundled name, a model's or adapter's folder (an artifact's too) or a hub id.

    name: what `model` is called; by default its artifact's name, its hub id or its folder's name. adapters: further
    adapters over the same base. registry, places, tool_parser: see ServedModel. Raises UserError for anything that
    would keep the engine from starting.
    """
    folder = resolve_base(model, field="model")
    wanted = {checked_name(key): resolve_base(path, field=f"adapter {key}") for key, path in (adapters or {}).items()}
    for one in (folder, *wanted.values()):
        check_speaks(one)
    primary = checked_name(name) if name is not None else name_of(model, folder)
    if primary in wanted:
        raise UserError(f"'{primary}' names two models", field="adapter", fix="give one of them another name")
    base, base_name = folder, primary
    if (folder / "adapter_config.json").is_file():
        base, base_name = base_of(folder)
        wanted = {primary: folder} | wanted
        if base_name in wanted:
            base_name += "-base"
    shapes = check_model(base)
    found = tuple(admitted(key, path, base, shapes) for key, path in wanted.items())
    chats = template_in(folder) is not None or template_in(base) is not None
    root = None
    if registry is not None:
        root = Path(registry).expanduser().resolve()
        if root.exists() and not root.is_dir():
            raise UserError("not a folder", file=root, field="registry")
        if places < 1:
            raise UserError(f"{places} is not a positive number", field="places")
        _check_has_lora(root, base)
    served = ServedModel(name=base_name, folder=base, primary=primary, chats=chats, adapters=found)
    return replace(served, registry=root, places=places, tool_parser=tool_parser)


def fitted(options: EngineOptions, served: ServedModel) -> EngineOptions:
    """`options` with room for the adapters. Raises UserError for a max_model_len above the model's positions,
    and for a dtype that its weights cannot be computed in."""
    resolved_dtype(served.folder, options)
    most = positions(read(served.folder / "config.json"))
    if options.max_model_len and most and options.max_model_len > most:
        raise UserError(f"{options.max_model_len} is more than the model's {most} positions", field="max_model_len")
    if not served.adapters and served.registry is None:
        return options
    count, ranks = len(served.adapters), [adapter.rank for adapter in served.adapters]
    if served.registry is not None:
        # vLLM must never put one aside by itself, and drops what was replaced only a little later.
        count += served.places
        ranks.append(_PUBLISHED_RANK)
    return replace(
        options,
        max_loras=options.max_loras or min(count, _IN_ONE_BATCH),
        max_lora_rank=max(options.max_lora_rank, *ranks),
        max_adapters=max(options.max_adapters, 2 * count),
    )


def check_speaks(folder: Path) -> None:
    """Raises UserError for what has a head of another kind in place of a language model's."""
    kind = read_artifact(folder).kind if is_artifact(folder) else "model"
    is_of_classes = read(folder / "adapter_config.json").get("task_type") in ("SEQ_CLS", "TOKEN_CLS")
    if kind in ("reward", "classifier") or is_of_classes:
        raise UserError(
            f"a {'reward model' if kind == 'reward' else 'classifier'} generates no text",
            file=folder,
            expected="a causal language model, or an adapter over one",
            fix=f"serve it by itself: fettle serve {folder}",
        )
    if any(name.endswith("ForMaskedLM") for name in read(folder / "config.json").get("architectures") or ()):
        raise UserError(
            "a masked language model fills gaps and writes no text",
            file=folder,
            expected="a causal language model, or an adapter over one",
            fix=f"serve it by itself, for embeddings: fettle serve {folder}",
        )


def base_of(adapter: Path) -> tuple[Path, str]:
    """Folder and name of the weights that an adapter says it was made for."""
    file = adapter / "adapter_config.json"
    artifact = read_artifact(adapter) if is_artifact(adapter) else None
    told = artifact.base["path"] if artifact and artifact.base else read(file).get("base_model_name_or_path")
    serve_base = "serve the base from where it is: fettle serve BASE --adapter NAME=FOLDER"
    if not told:
        raise UserError(
            "it does not say which base it belongs to", file=file, field="base_model_name_or_path", fix=serve_base
        )
    try:  # PEFT writes the path as it was given, so it may be relative to where the training ran
        base = resolve_base(told, relative_to=None if Path(told).expanduser().is_dir() else adapter)
    except UserError as error:
        raise UserError(f"its base cannot be had: {error.got}", file=adapter, fix=serve_base) from None
    if (base / "adapter_config.json").is_file():
        raise UserError(f"its base {base} is itself an adapter", file=adapter, fix="merge that adapter first")
    return base, name_of(told, base)


def check_digest(adapter: Path, base: Path) -> None:
    """The base must be, byte for byte, the one the adapter was trained on. Not checked where that would mean hashing
    more than 1 GiB (a second or two) at every start: an artifact's digest is only read."""
    told = (read_artifact(adapter).base or {}).get("digest") if is_artifact(adapter) else None
    if not told or not (is_artifact(base) or _bytes(base) <= _HASHED_BYTES):
        return
    if digest_of(base) != told:
        raise UserError(
            f"its base {base} is not the one it was trained on (the digests differ)",
            file=adapter,
            fix="serve it with the base it was trained on, or train it again",
        )


def admitted(name: str, folder: Path, base: Path, shapes: Shapes) -> ServedAdapter:
    """The adapter in a folder, over the base in `base` with tensors of those shapes. Raises UserError where vLLM could
    not apply it, or it was made for another base."""
    if not (folder / "adapter_config.json").is_file():
        raise UserError("not an adapter: it has no adapter_config.json", file=folder, field=f"adapter {name}")
    _check_has_lora(folder, base)
    rank = check_adapter(folder, shapes)
    check_digest(folder, base)
    mine, theirs = _vocabulary(folder), _vocabulary(base)
    if mine and theirs and mine != theirs:
        raise UserError(
            "its tokenizer is not its base's", file=folder, fix="merge the adapter into its base and serve the result"
        )
    return ServedAdapter(name=name, folder=folder, rank=rank, defaults=_defaults(folder, base))


def _check_has_lora(adapter: Path, base: Path) -> None:
    """Raises UserError where vLLM has no LoRA for the base's architecture; the engine would only tell once it is up."""
    if (architecture := without_lora(base)) is not None:
        family = read(base / "config.json").get("model_type")
        raise UserError(
            f"vLLM applies no adapters to models of type {family} ({architecture})",
            file=adapter,
            expected="full weights, or an adapter over a model such as Llama, Qwen, Mistral, Gemma or Phi",
            fix=f"fettle merge {adapter} --out FOLDER, and serve that",
        )


def without_lora(base: Path) -> str | None:
    """The base's architecture, where vLLM has no LoRA for it."""
    return next((one for one in read(base / "config.json").get("architectures") or () if has_lora(one) is False), None)


def _defaults(folder: Path, base: Path) -> dict[str, Any]:
    """Template, end tokens and sampling of an adapter's folder where they are not the base's: vLLM has one set of each
    for all names, so they are filled into the requests that name this adapter."""
    mine, theirs = read(folder / "generation_config.json"), read(base / "generation_config.json")
    defaults = {key: mine[key] for key in _SAMPLING if mine.get(key) is not None and mine[key] != theirs.get(key)}
    if ends := sorted(_ends(mine) - _ends(theirs)):
        defaults["stop_token_ids"] = ends
    template = template_in(folder)
    if template is not None and template.strip() != (template_in(base) or "").strip():
        defaults["chat_template"] = template
    return defaults


def _ends(generation: dict[str, Any]) -> set[int]:
    ends = generation.get("eos_token_id")
    return set() if ends is None else {ends} if isinstance(ends, int) else set(ends)


def _vocabulary(folder: Path) -> dict[str, int]:
    """Token to id, empty where there is no tokenizer.json that tells it."""
    told = read(folder / "tokenizer.json")
    vocabulary = (told.get("model") or {}).get("vocab")
    if not isinstance(vocabulary, dict):
        return {}
    return vocabulary | {token["content"]: token["id"] for token in told.get("added_tokens") or ()}


def name_of(told: str | Path, folder: Path) -> str:
    """What a model is called by default: its artifact's name, its hub id, or its folder's name."""
    if str(told) in BUNDLED:
        return str(told)
    if is_artifact(folder):
        name = read_artifact(folder).name
    else:
        name = folder.name if Path(told).expanduser().exists() else str(told)
    clean = re.sub(r"[^A-Za-z0-9._/-]+", "-", name).lstrip("._/-")[:128]
    return clean or "model"


def checked_name(name: str) -> str:
    """The name. Raises UserError for one that no URL or log should carry."""
    if not NAME.fullmatch(name):
        raise UserError(
            f"'{name}' is no name for a model",
            field="name",
            expected="letters, digits, '.', '_', '-' and '/', 128 at most",
        )
    return name


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))
