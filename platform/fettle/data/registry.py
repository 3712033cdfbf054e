"""LLaMA-Factory's `dataset_info.json`: a set's name to where its records lie and how they are read."""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from fettle.data.files import read_text
from fettle.errors import UserError, did_you_mean
from fettle.recipe.data import DataSpec, FormatName

REGISTRY = "dataset_info.json"
_SOURCES = ("hf_hub_url", "ms_hub_url", "om_hub_url", "script_url", "cloud_file_name", "file_name")
_KEYS = (*_SOURCES, "formatting", "ranking", "subset", "split", "folder", "revision", "num_samples", "columns", "tags")
_MEDIA = ("images", "videos", "audios")
# LLaMA-Factory's word for a column to ours: of alpaca, and of either format.
_ALPACA = {"prompt": "instruction", "query": "input", "response": "output", "history": "history"}
_BOTH = {"system": "system", "tools": "tools", "chosen": "chosen", "rejected": "rejected", "kto_tag": "kto_tag"}
# Its tag for a role to ours, with the words for it that need not be told.
_ROLE_TAGS = {
    "user_tag": ("user", "human"),
    "assistant_tag": ("assistant", "gpt"),
    "observation_tag": ("tool", "observation"),
    "function_tag": ("function_call",),
    "system_tag": ("system",),
}
_EXAMPLE = '{"NAME": {"file_name": "FILE.json", "formatting": "alpaca"}, …}'


def split_name(path: str) -> tuple[str, str] | None:
    """(registry, name) of `dataset_info.json#NAME`; an empty name where a registry is named alone."""
    if found := re.fullmatch(r"(.+\.json)#(.*)", path, re.S):
        return found[1], found[2]
    return (path, "") if re.split(r"[/\\]", path)[-1] == REGISTRY else None


def look_up(file: Path, name: str, spec: DataSpec, /, **where: Any) -> DataSpec:
    """`spec` with what the registry's entry adds; what the spec itself says wins. Its path is one beside the
    registry, an address, or `hf://datasets/ID`.

    where: file, line, field (of a recipe) of the UserError raised when there is no such name.
    """
    text = read_text(file)
    entries = _entries(file, text)
    if name not in entries:
        raise _unknown(file, name, list(entries), spec.path, where)
    line = _line_of(name, text)
    entry = entries[name]
    if not isinstance(entry, dict):
        raise UserError("not an object", file=file, line=line, field=name, expected=_EXAMPLE)
    said = _Entry(file, line, name, entry)
    format_, columns = said.reading()
    added = {"path": said.path(), "columns": columns, "roles": said.roles(), "limit": said.limit()}
    if "hf_hub_url" in entry:
        added["hub"] = said.hub()
    own = spec.model_dump(exclude_unset=True, exclude={"path"})
    if own.get("format", format_) == format_:  # of another format, the entry's columns mean nothing
        added["format"] = format_
    else:
        added["columns"] = {}
    for key in ("columns", "roles", "hub"):
        if key in added:
            own[key] = added[key] | own.get(key, {})
    return DataSpec.model_validate(added | own)


class _Entry:
    """One entry, and where it stands for the messages about it."""

    def __init__(self, file: Path, line: int, name: str, entry: dict[str, Any]) -> None:
        self._file, self._line, self._name, self._entry = file, line, name, entry
        for key in entry:
            # LLaMA-Factory passes over keys it does not know, and people keep notes in them; a slip is no note.
            if key not in _KEYS and (near := get_close_matches(key, _KEYS, n=1, cutoff=0.8)):
                raise self._wrong(key, f"unknown key (did you mean '{near[0]}'?)", ", ".join(_KEYS))
        self._is_chat = self._choice("formatting", "alpaca", ("alpaca", "sharegpt", "openai")) != "alpaca"
        self._is_ranking = self._choice("ranking", False, (True, False))
        self._columns = self._table("columns", (*_ALPACA, "messages", *_BOTH, *_MEDIA))
        self._tags = self._table("tags", ("role_tag", "content_tag", *_ROLE_TAGS))
        for key in _MEDIA:
            if key in self._columns:
                raise self._wrong(f"columns.{key}", f"{key} are not read, only text is", "a set of text alone")

    def path(self) -> str:
        """Of LLaMA-Factory's places the one it would take."""
        key = next((key for key in _SOURCES if self._entry.get(key)), None)
        if key is None:
            raise self._wrong(None, "no file_name and no hf_hub_url", _EXAMPLE)
        place = self._entry[key]
        if not isinstance(place, str):
            raise self._wrong(key, "not text", _EXAMPLE)
        if key in ("ms_hub_url", "om_hub_url", "script_url"):
            what = "a loading script" if key == "script_url" else "another hub than Hugging Face's"
            raise self._wrong(key, f"{what} is not read", "file_name, cloud_file_name or hf_hub_url")
        if key == "hf_hub_url":
            return f"hf://datasets/{place}"
        return place

    def hub(self) -> dict[str, str]:
        """Which part of a data set on the hub."""
        found = {key: self._entry.get(key) for key in ("subset", "split", "folder", "revision")}
        for key, value in found.items():
            if not isinstance(value, (str, type(None))):
                raise self._wrong(key, "not text", "text")
        return {key: value for key, value in found.items() if value}

    def limit(self) -> int | None:
        """How many records, the first so many; LLaMA-Factory draws them."""
        number = self._entry.get("num_samples")
        if number is not None and (type(number) is not int or number < 1):
            raise self._wrong("num_samples", f"{number!r} is no number of records", "1 or more")
        return number

    def reading(self) -> tuple[FormatName, dict[str, str]]:
        """(the format, those of its columns that have other names in the file)."""
        role, content = self._tags.get("role_tag", "from"), self._tags.get("content_tag", "value")
        is_openai = self._is_chat and (role, content) == ("role", "content")
        ours = _BOTH | ({"messages": "messages" if is_openai else "conversations"} if self._is_chat else _ALPACA)
        format_: FormatName
        if "kto_tag" in self._columns:
            format_ = "unpaired"
        elif self._is_ranking:
            format_ = "preference"
        elif self._is_chat:
            format_ = "messages" if is_openai else "sharegpt"
        elif "prompt" in self._columns and "response" not in self._columns:
            format_, ours = "text", {"prompt": "text"}
        else:
            format_ = "alpaca"
        columns = {ours[key]: column for key, column in self._columns.items() if key in ours}
        if self._is_chat and not is_openai:
            columns |= {"role": role} if role not in ("role", "from") else {}
            columns |= {"content": content} if content not in ("content", "value") else {}
        return format_, {column: theirs for column, theirs in columns.items() if column != theirs}

    def roles(self) -> dict[str, str]:
        """Roles for which the file has a word of its own."""
        return {
            words[0]: self._tags[tag]
            for tag, words in _ROLE_TAGS.items()
            if tag in self._tags and self._tags[tag] not in words
        }

    def _choice(self, key: str, default: Any, choices: tuple[Any, ...]) -> Any:
        value = self._entry.get(key, default)
        if value not in choices:
            raise self._wrong(key, f"unknown value {value!r}", ", ".join(json.dumps(choice) for choice in choices))
        return value

    def _table(self, key: str, known: tuple[str, ...]) -> dict[str, str]:
        table = self._entry.get(key) or {}
        if not isinstance(table, dict):
            raise self._wrong(key, "not an object", f'{{"{known[0]}": "…"}}')
        for word, meant in table.items():
            if word not in known:
                raise self._wrong(f"{key}.{word}", f"unknown key{did_you_mean(word, known)}", ", ".join(known))
            if not isinstance(meant, (str, type(None))):
                raise self._wrong(f"{key}.{word}", "not text", "the name of a column" if key == "columns" else "a word")
        return {word: meant for word, meant in table.items() if meant}

    def _wrong(self, key: str | None, got: str, expected: str) -> UserError:
        field = f"{self._name}.{key}" if key else self._name
        return UserError(got, file=self._file, line=self._line, field=field, expected=expected)


def _entries(file: Path, text: str) -> dict[str, Any]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as error:
        line = error.lineno if isinstance(error, json.JSONDecodeError) else None
        raise UserError(f"not valid JSON: {error}", file=file, line=line, expected=_EXAMPLE) from None
    if isinstance(entries, list):
        raise UserError(
            "a list, which is ms-swift's kind of registry; LLaMA-Factory's, an object, is read",
            file=file,
            expected=_EXAMPLE,
        )
    if not isinstance(entries, dict):
        raise UserError("not an object", file=file, expected=_EXAMPLE)
    return entries


def _unknown(file: Path, name: str, names: list[str], path: str, where: dict[str, Any]) -> UserError:
    listed = ", ".join(names[:12]) + (f", … and {len(names) - 12} more" if len(names) > 12 else "") or "none"
    if name:
        got, fix = f"no data set '{name}' in it{did_you_mean(name, names)}", None
    else:
        got, fix = "a registry of data sets, and none is named", f"{path.rstrip('#')}#{(names or ['NAME'])[0]}"
    return UserError(f"{file}: {got}" if where else got, **where or {"file": file}, expected=listed, fix=fix)


def _line_of(name: str, text: str) -> int:
    """The line on which an entry's name stands."""
    found = re.search(re.escape(json.dumps(name, ensure_ascii=False)) + r"\s*:", text)
    return 1 + text.count("\n", 0, found.start()) if found else 1
