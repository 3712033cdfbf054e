"""What lies in a registry's folder, read. Its files are replaced and never edited: one is read once, and again only
where it was replaced, since endpoints look at thousands of them every few seconds."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.errors import UserError
from fettle.registry.files import Kind


@dataclass(frozen=True)
class Version:
    """number: from 1. digest: over all its files. base: path and digest of what an adapter goes over, as far as it says
    so. size: bytes. published: in UTC. kind: an adapter, or a model's full weights."""

    name: str
    number: int
    folder: Path
    digest: str
    size: int
    published: str
    base: dict[str, str] | None = None
    kind: Kind = "adapter"

    @property
    def id(self) -> str:
        """`support:7`."""
        return f"{self.name}:{self.number}"


class Stored:
    """Of one registry."""

    def __init__(self, root: Path) -> None:
        self._root = str(root)
        self._known: dict[str, tuple[tuple[int, ...], Any]] = {}

    def names(self, has: str = "versions") -> list[str]:
        """Under which something was published, or was about to be, sorted. has: what lies in the folder of each."""
        try:
            return sorted(name for name in os.listdir(self._root) if os.path.exists(f"{self._root}/{name}/{has}"))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def is_published(self, name: str) -> bool:
        """Whether there is a version of it."""
        return next(self._numbers(name, ".json"), None) is not None

    def numbers(self, name: str, ending: str = ".json") -> list[int]:
        """Of its versions, in order. ending: of the files that have them for names; none: of the versions' folders."""
        return sorted(self._numbers(name, ending))

    def version(self, name: str, number: int) -> Version | None:
        """One, where it is there. Raises UserError where its file makes no sense."""

        def parsed(text: str) -> Version:
            # By its place and not by what it says, since folders are moved and copied.
            folder = Path(self._root, name, "versions", str(number))
            return Version(**json.loads(text) | {"name": name, "number": number, "folder": folder})

        file = f"{self._root}/{name}/versions/{number}.json"
        try:
            version: Version = self._read(file, parsed)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"not readable as a version ({error})", file=file) from error
        return version

    def read(self, name: str, number: int) -> Version:
        """One that was there a moment ago. Raises UserError where it is gone, or makes no sense."""
        if (version := self.version(name, number)) is None:
            raise UserError("the version is gone", file=f"{self._root}/{name}/versions/{number}.json")
        return version

    def aliases(self, name: str) -> Mapping[str, Mapping[str, Any]]:
        """Alias to the number it points at (`now`), and those it pointed at (`before`). Raises UserError where the file
        makes no sense."""
        file = f"{self._root}/{name}/aliases.json"
        try:
            told: Mapping[str, Mapping[str, Any]] = self._read(file, _aliases)
        except FileNotFoundError:
            return {}
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise UserError(f"not readable as aliases ({error})", file=file) from error
        return told

    def _read(self, file: str, parse: Callable[[str], Any]) -> Any:
        state = os.stat(file)
        # A file that is replaced from here on is taken for the old one, and so is read again the next time.
        seen = (state.st_ino, state.st_mtime_ns, state.st_ctime_ns, state.st_size)
        if (known := self._known.get(file)) is not None and known[0] == seen:
            return known[1]
        with open(file, encoding="utf-8") as stream:
            told = parse(stream.read())
        self._known[file] = seen, told
        return told

    def _numbers(self, name: str, ending: str) -> Iterator[int]:
        with suppress(FileNotFoundError), os.scandir(f"{self._root}/{name}/versions") as entries:
            for entry in entries:
                stem = entry.name.removesuffix(ending)
                if entry.name.endswith(ending) and stem.isascii() and stem.isdigit() and stem[0] != "0":
                    yield int(stem)


def _aliases(text: str) -> dict[str, dict[str, Any]]:
    return {
        str(alias): {"now": int(one["now"]), "before": [int(number) for number in one["before"]]}
        for alias, one in json.loads(text).items()
    }
