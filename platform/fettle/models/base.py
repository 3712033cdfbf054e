"""Where a base model lies, and loading it. The only place that turns a base's name into weights."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from fettle.artifact import Artifact, digest_folder, is_artifact, read_artifact
from fettle.errors import UserError
from fettle.models.family import PADS_FIRST, auto_class, family_of, family_of_config

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from fettle.models.stored import Stored

_ASSETS = Path(__file__).parents[1] / "assets"
BUNDLED = {"tiny": _ASSETS / "tiny"}
TEMPLATES = {name: _ASSETS / "templates" / f"{name}.jinja" for name in ("chatml", "llama3", "mistral", "gemma", "qwen")}
_UNSAFE = (".bin", ".pt", ".pth", ".pkl")


def resolve_base(name: str | Path, relative_to: Path | None = None, **where: object) -> Path:
    """The folder of a base: the bundled name, a folder (relative to `relative_to`), or a hub id, fetched if need be.

    where: file, line, field of the UserError raised when it is nowhere, or is no model we may load.
    """
    if str(name) in BUNDLED:
        return BUNDLED[str(name)]
    folder = ((relative_to or Path()) / Path(name).expanduser()).resolve()
    if folder.is_dir():
        check_model_folder(folder, **where)
        return folder
    return _from_hub(str(name), folder, **where)


def check_model_folder(folder: Path, **where: object) -> None:
    """Raises UserError unless the folder holds a model (or adapter) in safetensors that needs no code of its own."""
    config = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        config = folder / "adapter_config.json"
    if not config.is_file():
        raise _error(f"no model in {folder}: it has no config.json", where, expected="a Hugging Face model's folder")
    if not any(folder.glob("*.safetensors")):
        unsafe = [file.name for file in folder.iterdir() if file.suffix in _UNSAFE]
        got = f"{folder} has no *.safetensors"
        got += f", only {unsafe[0]}, which can run code when loaded" if unsafe else ""
        raise _error(got, where, fix="convert the weights to safetensors" if unsafe else None)
    try:
        settings = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _error(f"{config} is not valid JSON ({error})", where) from None
    if not isinstance(settings, dict):
        raise _error(f"{config} is no JSON object", where)
    if "auto_map" in settings:
        raise _error(
            f"{folder} wants to run code of its own (auto_map in {config.name})",
            where,
            fix="use a model whose architecture transformers has",
        )


def positions_of(folder: Path) -> int:
    """The model's longest sequence in tokens; of an encoder-decoder model that of each half."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if (
        config.get("is_encoder_decoder") and "relative_attention_num_buckets" in config
    ):  # T5's distances have no end; n_positions is how it was trained
        return sys.maxsize
    for key in ("max_position_embeddings", "n_positions", "max_seq_len"):
        if isinstance(config.get(key), int):
            # RoBERTa's 514 are 512 of text: the first ones are the padding's.
            taken = config.get("pad_token_id", 1) + 1 if config.get("model_type") in PADS_FIRST else 0
            return int(config[key]) - int(taken)
    return 2048


def is_quantized(folder: Path) -> bool:
    """Whether the weights in a model's folder were rounded to fewer bits."""
    file = folder / "config.json"
    return file.is_file() and json.loads(file.read_text(encoding="utf-8")).get("quantization_config") is not None


def digest_of(folder: Path) -> str:
    """The digest of a base: its artifact's if it is one, else over its files."""
    if is_artifact(folder):
        return read_artifact(folder).digest
    files = ((file, file.stat()) for file in sorted(folder.rglob("*")) if file.is_file())
    return _digest(folder, tuple((str(file), state.st_size, state.st_mtime_ns) for file, state in files))


@cache
def _digest(folder: Path, files: tuple[tuple[str, int, int], ...]) -> str:
    """The folder's digest, once for as long as its files stay as they are: a sweep plans a stage for every trial."""
    return digest_folder(folder)


def base_and_adapter(folder: Path) -> tuple[Path, Artifact | None]:
    """(folder of full weights, adapter over it or None) of an artifact's or a model's folder."""
    if is_artifact(folder):
        artifact = read_artifact(folder)
        if artifact.base is not None:
            return Path(artifact.base["path"]), artifact
    return folder, None


def linear_layers(folder: Path) -> list[str]:
    """Names of the model's linear layers but the output head (the last part of each), from its configuration."""
    import torch
    from transformers.pytorch_utils import Conv1D

    model = without_weights(folder)
    head, kinds = model.get_output_embeddings(), (torch.nn.Linear, Conv1D)
    inside = [name for name, one in model.named_modules() if one is not head and isinstance(one, kinds)]
    return sorted({name.rpartition(".")[2] for name in inside})


def module_names(folder: Path) -> list[str]:
    """Names of all parts of the model, from its configuration, without loading weights."""
    return [name for name, _ in without_weights(folder).named_modules()]


def without_weights(folder: Path) -> PreTrainedModel:
    """The model in `folder` by its configuration, on the meta device."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    with torch.device("meta"):
        model: PreTrainedModel = auto_class(family_of_config(config)).from_config(config, trust_remote_code=False)
    return model


def load_tokenizer(folder: Path, chat_template: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer with its chat template, and a padding token (its end-of-text token where it names none).

    chat_template: the text of one that takes the place of its own.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    return tokenizer


def resolve_template(name: str, relative_to: Path | None = None, **where: object) -> str:
    """The text of a chat template: a bundled one's name, or a .jinja file (relative to `relative_to`).

    where: file, line, field of the UserError raised when it is nowhere, or is no template.
    """
    import jinja2
    from transformers.utils.chat_template_utils import _compile_jinja_template

    file = TEMPLATES.get(name, (relative_to or Path()) / Path(name).expanduser())
    try:
        text = file.read_text(encoding="utf-8-sig")
        _compile_jinja_template(text)  # the very environment that renders it; the public way only renders
    except OSError:
        expected = f"{', '.join(TEMPLATES)}, or a .jinja file"
        raise _error(f"no chat template '{name}' ({file} is not there)", where, expected=expected) from None
    except UnicodeDecodeError as error:
        raise UserError(f"not UTF-8 text ({error})", file=file, field=str(where.get("field") or "")) from None
    except jinja2.TemplateSyntaxError as error:
        raise UserError(f"not a Jinja template: {error.message}", file=file, line=error.lineno) from None
    return text


def template_in(folder: Path) -> str | None:
    """The chat template that lies in a model's or an adapter's folder."""
    if (folder / "chat_template.jinja").is_file():
        return (folder / "chat_template.jinja").read_text(encoding="utf-8")
    try:
        told = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    template = told.get("chat_template") if isinstance(told, dict) else None
    return template if isinstance(template, str) else None


def load_weights(folder: Path, dtype: Stored) -> PreTrainedModel:
    """The language model in `folder`, with its family's output head, in `dtype`, with attention that understands packed
    rows."""
    from fettle.models.stored import load

    return load(auto_class(family_of(folder)), folder, dtype)


def dtype_of(folder: Path) -> torch.dtype:
    """The type the weights lie in, in which they are written back."""
    import torch

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return getattr(torch, str(config.get("dtype") or config.get("torch_dtype") or "float32").removeprefix("torch."))


def _from_hub(name: str, folder: Path, **where: object) -> Path:
    expected = f"{', '.join(BUNDLED)}, a folder, or a hub id like org/model"
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise _error(f"no model '{name}' ({folder} is not there)", where, expected=expected)
    from huggingface_hub import snapshot_download

    try:
        found = snapshot_download(name, allow_patterns=["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"])
    except Exception as error:  # the hub's client raises many kinds; all mean the same to the user
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise _error(
            f"'{name}' is no folder here and could not be fetched from the hub ({reason})",
            where,
            expected=expected,
            fix="check the name, the network, or download it and give the folder",
        ) from None
    check_model_folder(Path(found), **where)
    return Path(found)


def _error(got: str, where: dict[str, object], **more: str | None) -> UserError:
    return UserError(got, **where, **more)  # type: ignore[arg-type]
