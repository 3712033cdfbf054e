"""A stage's sources as token sets: encoded once, kept in a cache that runs and stages share, named by their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

import fettle.data
from fettle.artifact import digest_file
from fettle.data.cache import shared_folder
from fettle.data.encode import Counts, encode
from fettle.data.line_index import StreamedSource, fill_index
from fettle.data.rows import complaint_of
from fettle.data.skipped import SKIPPED, as_row
from fettle.data.sources import OpenSource, read_source
from fettle.data.stream import Stream
from fettle.data.tokens import TokenSet, choose_heldout, fill_tokens, grouped
from fettle.errors import UserError
from fettle.models.family import family_of
from fettle.pipeline.planned import PlannedSource, PlannedStage
from fettle.recipe.data import HeldoutSpec
from fettle.recipe.kinds import OF_PARTS

_GROUP_BYTES = 32 << 20
_BEGINNING_BYTES = 16 << 20
# Whatever transformers makes a tokenizer of; by the model_type in config.json it may rebuild parts (train.md 0d).
_TOKENIZER_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "tekken.json"),
    *("chat_template.jinja", "chat_template.json"),
)


@dataclass(frozen=True)
class Encoder:
    """How a stage's records become tokens."""

    stage: PlannedStage
    tokenizer: PreTrainedTokenizerBase
    labels: tuple[str, ...] = ()

    @property
    def is_of_parts(self) -> bool:
        """Whether a record is learned as a whole."""
        return self.stage.spec.kind in OF_PARTS

    @property
    def is_halved(self) -> bool:
        """Whether prompts and answers are texts by themselves, as an encoder-decoder model reads them."""
        return family_of(self.stage.origin.root) == "seq2seq"

    def identity(self) -> str:
        """Of all that decides the tokens of a record: tokenizer, template, lengths, and the code."""
        root = self.stage.origin.root
        told = [self.stage.max_length, self.stage.spec.on_long, self.tokenizer.chat_template, _code()]
        told += [self.is_of_parts, self.labels, self.is_halved]
        files = [digest_file(root / name) for name in _TOKENIZER_FILES if (root / name).is_file()]
        return hashlib.sha256(json.dumps([told, files], sort_keys=True).encode()).hexdigest()


def encoded(source: PlannedSource, encoder: Encoder, into: Path) -> tuple[Path, ...]:
    """The folders of the source's encoded examples below `into`, one for each group of its files.

    Raises UserError where a record cannot be encoded, or none of them has a token to learn. Groups that were finished
    before stay in the cache.
    """
    identity = encoder.identity()
    groups = list(_groups(source))
    folders = []
    for opened, contents in groups:
        name = hashlib.sha256(json.dumps([contents, source.reading, identity]).encode()).hexdigest()[:32]
        fill = partial(_fill, source=opened, encoder=encoder, must_learn=len(groups) == 1)
        folders.append(shared_folder(name, into, fill))
    counts = TokenSet(*folders).counts
    if not counts["loss_tokens"] and encoder.stage.spec.kind != "classify":
        raise UserError(
            f"no token bears loss in any of {counts['records']} records: there is nothing to learn",
            field=source.field,
            fix="see what is learned with `fettle data show`; a larger max_length may leave room for answers",
        )
    return tuple(folders)


def streamed(source: PlannedSource, into: Path) -> StreamedSource:
    """The source as workers encode it while they train; its files are checked to be of lines."""
    opened = source.opened
    folders = []
    for file, content in zip(opened.files, source.contents, strict=True):
        name = "index-" + hashlib.sha256(content.encode()).hexdigest()[:32]
        folders.append(shared_folder(name, into, partial(fill_index, file=file)))
    return StreamedSource(opened.spec, opened.files, tuple(folders))


def streamed_heldout(source: PlannedSource, encoder: Encoder, spec: HeldoutSpec, into: Path) -> Path:
    """The folder of examples held out of a source that is streamed, chosen among those at its beginning."""
    told = [source.contents, source.reading, encoder.identity(), spec.fraction, spec.max, _BEGINNING_BYTES]
    name = "heldout-" + hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32]

    def fill(folder: Path) -> None:
        stream = Stream(
            streamed(source, into),
            encoder.tokenizer,
            max_length=encoder.stage.max_length,
            on_long=encoder.stage.spec.on_long,
            on_error=complaint_of(source.opened.spec),  # a worker writes it down when it comes to it
            is_halved=encoder.is_halved,
        )
        examples = list(stream.beginning(_BEGINNING_BYTES))
        _, out = choose_heldout(examples, spec)
        fill_tokens(folder, [examples[place] for place in out])

    return shared_folder(name, into, fill)


def bad_records(source: PlannedSource, folders: tuple[Path, ...]) -> Iterator[dict[str, object]]:
    """What `on_bad_record: skip` left out: file, line, field and reason of each."""
    for (opened, _), folder in zip(_groups(source), folders, strict=True):
        with open(folder / SKIPPED, encoding="utf-8") as stream:
            for line in stream:
                told = json.loads(line)
                yield told | {"file": str(opened.files[told["file"]])}


def _groups(source: PlannedSource) -> Iterator[tuple[OpenSource, list[str]]]:
    """(files that are encoded together, their contents). A large file is by itself, small ones are together.

    Where a group ends, its last file alone decides: a file more or less changes just the group it is in.
    """
    if source.opened.spec.limit is not None:  # which of its records count depends on the files before
        yield source.opened, list(source.contents)
        return
    files: list[Path] = []
    contents: list[str] = []
    for file, content in zip(source.opened.files, source.contents, strict=True):
        size = file.stat().st_size
        if size >= _GROUP_BYTES and files:
            yield replace(source.opened, files=tuple(files)), contents
            files, contents = [], []
        files.append(file)
        contents.append(content)
        if int(content[-8:], 16) / 16**8 < size / _GROUP_BYTES:  # a digest's end is as good as random
            yield replace(source.opened, files=tuple(files)), contents
            files, contents = [], []
    if files:
        yield replace(source.opened, files=tuple(files)), contents


def _fill(folder: Path, source: OpenSource, encoder: Encoder, must_learn: bool) -> None:
    """Encodes a group of files. What is skipped names a file by its position, since others with the same content may
    lie elsewhere."""
    counts, num_bad = Counts(), 0
    with open(folder / SKIPPED, "w", encoding="utf-8") as skipped:

        def skip(error: UserError) -> None:
            nonlocal num_bad
            if source.spec.on_bad_record == "error":
                raise error
            num_bad += 1
            place = next((n for n, file in enumerate(source.files) if str(file) == str(error.file)), 0)
            skipped.write(json.dumps(as_row(error) | {"file": place}) + "\n")

        examples: Iterator[Any] = encode(
            read_source(source, skip),
            encoder.tokenizer,
            max_length=encoder.stage.max_length,
            on_long=encoder.stage.spec.on_long,
            counts=counts,
            must_learn=must_learn,
            is_halved=encoder.is_halved,
        )
        if encoder.is_of_parts:
            examples = grouped(examples, encoder.labels)
        fill_tokens(folder, examples, counts=lambda: asdict(counts) | {"bad": num_bad})


@lru_cache(maxsize=1)
def _code() -> list[str]:
    """What turns files into tokens: our own code, and the libraries'."""
    ours = hashlib.sha256()
    for file in sorted(Path(fettle.data.__file__).parent.rglob("*.py")):
        ours.update(file.read_bytes())
    return [ours.hexdigest(), *(metadata.version(name) for name in ("transformers", "tokenizers", "jinja2"))]
