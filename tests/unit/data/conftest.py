"""Fakes for the data tests: files, and a tokenizer small enough to do by hand (one token a byte, and the specials)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from fettle.data.formats import read_file
from fettle.data.record import Record
from fettle.errors import UserError
from fettle.recipe.data import DataSpec

SPECIALS = (
    *("<|end|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "[INST]", "[/INST]", "<start_of_turn>", "<end_of_turn>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)

WriteFile = Callable[..., Path]
MakeTokenizer = Callable[..., PreTrainedTokenizerBase]


@pytest.fixture
def write(tmp_path: Path) -> WriteFile:
    """`write(name, rows | text | bytes)`: a file of JSON lines, of text, or of bytes; its path."""

    def write(name: str, content: Sequence[object] | str | bytes) -> Path:
        if not isinstance(content, (str, bytes)):
            content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in content)
        raw = content.encode() if isinstance(content, str) else content
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gzip.compress(raw) if name.endswith(".gz") and isinstance(content, str) else raw)
        return file

    return write


@pytest.fixture
def read(write: WriteFile) -> Callable[..., list[Record]]:
    """`read(rows, **how)`: the records of a .jsonl file of these rows, read as a DataSpec of `how` says."""

    def read(rows: Sequence[object], **how: Any) -> list[Record]:
        file = write("a.jsonl", rows)
        return list(read_file(file, DataSpec(path=str(file), **how))[1])

    return read


@pytest.fixture
def refusal(write: WriteFile) -> Callable[..., str]:
    """`refusal(rows, **how)`: the message about such a file, less the file's folder."""

    def refusal(rows: Sequence[object], **how: Any) -> str:
        file = write("a.jsonl", rows)
        with pytest.raises(UserError) as caught:
            list(read_file(file, DataSpec(path=str(file), **how))[1])
        return str(caught.value).replace(f"{file.parent}/", "")

    return refusal


@pytest.fixture
def make_tokenizer() -> MakeTokenizer:
    """`make_tokenizer(chat_template=None, merges=())`: bytes and specials; merges are pairs of byte-level pieces."""

    def make(chat_template: str | None = None, merges: Sequence[tuple[str, str]] = ()) -> PreTrainedTokenizerBase:
        pieces = sorted(pre_tokenizers.ByteLevel.alphabet()) + [left + right for left, right in merges]
        backend = Tokenizer(models.BPE({piece: i for i, piece in enumerate(pieces)}, list(merges)))
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.decoder = decoders.ByteLevel()
        backend.add_special_tokens(list(SPECIALS))
        return PreTrainedTokenizerFast(
            tokenizer_object=backend,
            eos_token="<|end|>",
            bos_token="<s>",
            extra_special_tokens=list(SPECIALS[1:]),
            chat_template=chat_template,
        )

    return make


@pytest.fixture
def chatml(make_tokenizer: MakeTokenizer) -> PreTrainedTokenizerBase:
    """The small tokenizer with a ChatML template."""
    return make_tokenizer(
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which what is fetched will lie."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fettle"


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """`shared(path)`: a file or folder of the real data and models beside the checkout, or the test is skipped."""

    def shared(path: str) -> Path:
        found = Path(__file__).parents[4] / "shared" / path
        if not found.exists():
            pytest.skip(f"{found} is not on this machine")
        return found

    return shared


@pytest.fixture(scope="session")
def base_8m(shared: Callable[[str], Path]) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shared("models/base-8m"))


@pytest.fixture(scope="session")
def stories260k(shared: Callable[[str], Path]) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(shared("models/stories260K"))
