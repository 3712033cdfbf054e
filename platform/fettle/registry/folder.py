"""A registry in a folder that its publishers and all replicas see: versions never change, aliases point at them.

ROOT/NAME/versions/N is a version's folder, and ROOT/NAME/versions/N.json says what it is: the version is there once
that file is. ROOT/NAME/aliases.json and canary.json are replaced as a whole. Whoever writes holds ROOT/NAME/.lock,
which has to hold over all machines that publish; readers need no lock. ROOT/.registry tells an empty registry from a
folder that is not mounted.
"""

from __future__ import annotations

import json
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from fettle.artifact import digest_folder, is_artifact, locked, read_artifact, replace_text, sync_folder
from fettle.errors import UserError, did_you_mean
from fettle.registry.canary import Canary
from fettle.registry.files import Kind, checked_files
from fettle.registry.reference import CANDIDATE, PRODUCTION, Reference, check_alias, check_name
from fettle.registry.stored import Stored, Version

_MARK = ".registry"
_PIN, _CANARY = ".pinned", "canary.json"
_MOST_BEFORE = 20  # versions that an alias can go back to


class FolderRegistry:
    """Of adapters and models below `root`, which need not be there yet. All versions of a name are of one kind."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).expanduser().resolve()
        self._stored = Stored(self.root)

    @property
    def is_there(self) -> bool:
        """Whether something was published here ever."""
        return (self.root / _MARK).is_file()

    def names(self) -> list[str]:
        """Of everything that has a version, sorted."""
        return [name for name in self._stored.names() if self._stored.is_published(name)]

    def kind(self, name: str) -> Kind | None:
        """Of a name's versions; None of an unknown one. Raises UserError where its files make no sense."""
        newest = self._newest(name)
        return newest.kind if newest is not None else None

    def newest(self, name: str) -> int:
        """The number of its newest version, 0 of an unknown name."""
        return max(self._stored.numbers(name), default=0)

    def versions(self, name: str) -> list[Version]:
        """All that are there, oldest first; none for an unknown name."""
        return [self._stored.read(name, number) for number in self._stored.numbers(name)]

    def aliases(self, name: str) -> dict[str, int]:
        """Alias to number."""
        return {alias: told["now"] for alias, told in self._stored.aliases(name).items()}

    def find(self, wanted: Reference) -> Version:
        """What a reference means now. Raises UserError where there is no such thing."""
        if not self._stored.is_published(wanted.name):
            near = did_you_mean(wanted.name, self.names())
            raise UserError(f"nothing called '{wanted.name}' is published in {self.root}{near}", field="name")
        number = wanted.number
        if number is None:
            aliases = self.aliases(wanted.name)
            if wanted.alias not in aliases:
                told = ", ".join(f"{alias} ({wanted.name}:{number})" for alias, number in sorted(aliases.items()))
                raise UserError(
                    f"'{wanted.name}' has no alias '{wanted.alias}'",
                    field="name",
                    expected=told or "none is set",
                    fix=f"fettle promote {wanted.name}:NUMBER" if wanted.alias == PRODUCTION else None,
                )
            number = aliases[str(wanted.alias)]
        if (version := self._stored.version(wanted.name, number)) is None:
            told = ", ".join(map(str, self._stored.numbers(wanted.name)))
            raise UserError(f"'{wanted.name}' has no version {number}", field="name", expected=told)
        return version

    def publish(self, name: str, folder: str | Path, *, alias: str = CANDIDATE) -> Version:
        """A copy of the adapter or model in `folder` as the next version, at which `alias` points from then on; the
        newest version again, where that has the very same files.

        Raises UserError for a bad name, one of the other kind, an artifact whose files have changed, and as
        `checked_files`; then nothing is changed.
        """
        source = Path(folder)
        check_name(name)
        check_alias(alias)
        kind, size = checked_files(source)
        artifact = read_artifact(source, verify=True) if is_artifact(source) else None
        digest = artifact.digest if artifact is not None else digest_folder(source)
        with self._locked(name):
            newest = self._newest(name)
            if newest is not None and newest.kind != kind:
                raise UserError(
                    f"'{name}' is a published {newest.kind}, and this is a{'n' * (kind == 'adapter')} {kind}",
                    field="name",
                    fix="publish it under another name",
                )
            if newest is not None and newest.digest == digest:
                version = newest
            else:
                base = artifact.base if artifact is not None else None
                version = self._commit(name, source, digest, size, base, kind)
            self._point(name, alias, version.number)
        return version

    def point(self, name: str, alias: str, number: int) -> int | None:
        """Points `alias` at a version; gives the number that it pointed at. Raises UserError where there is none."""
        check_alias(alias)
        self.find(Reference(name, None, number))
        with self._locked(name):
            return self._point(name, alias, number)

    def back(self, name: str, alias: str = PRODUCTION) -> Version:
        """Points `alias` at what it pointed at before. Raises UserError where it points at its first."""
        self.find(Reference(name, alias))
        with self._locked(name):
            told = dict(self._stored.aliases(name))
            before = [number for number in told[alias]["before"] if self._file(name, number).is_file()]
            if not before:
                raise UserError(
                    f"{name}@{alias} has pointed at {name}:{told[alias]['now']} only; there is nothing to go back to",
                    field="name",
                )
            told[alias] = {"now": before[-1], "before": before[:-1]}
            replace_text(self._aliases_file(name), json.dumps(told, indent=2))
        return self._stored.read(name, told[alias]["now"])

    def canary(self, name: str) -> Canary | None:
        """What a share of the name's requests goes to. Raises UserError where its file makes no sense."""
        file = self._canary_file(name)
        try:
            return Canary(**json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"not readable as a canary ({error})", file=file) from error

    def with_canary(self) -> list[str]:
        """Names that a canary was set for; it may be stopped by now."""
        return self._stored.names(_CANARY)

    def set_canary(self, name: str, canary: Canary | None) -> None:
        """From now on; None ends it. Raises UserError where its alias points at nothing."""
        if canary is not None:
            self.find(Reference(name, canary.alias))
        with self._locked(name):
            if canary is None:
                self._canary_file(name).unlink(missing_ok=True)
            else:
                replace_text(self._canary_file(name), json.dumps(asdict(canary), indent=2))

    def pinned(self) -> set[str]:
        """Names that endpoints load first and never let go of."""
        return set(self._stored.names(_PIN))

    def pin(self, name: str, is_pinned: bool) -> None:
        """Raises UserError for an unknown name, and a model's: engines of its own hold that anyway."""
        if not self._stored.is_published(name):
            self.find(Reference(name))
        if is_pinned and self.kind(name) == "model":
            raise UserError(f"'{name}' is a model, and only adapters take places", field="name")
        with self._locked(name):
            if is_pinned:
                (self.root / name / _PIN).touch()
            else:
                (self.root / name / _PIN).unlink(missing_ok=True)

    def state(self, kind: Kind) -> dict[str, dict[str, Version] | None]:
        """Name to alias to version, of all names of a kind: what endpoints look at again and again. None for a name
        whose files cannot be read; an alias whose version is gone is left out."""
        found: dict[str, dict[str, Version] | None] = {}
        for name in self._stored.names():
            try:
                named = {alias: self._stored.version(name, number) for alias, number in self.aliases(name).items()}
                versions = {alias: version for alias, version in named.items() if version is not None}
                if not versions and not self._stored.is_published(name):
                    continue
            except (UserError, OSError):
                found[name] = None
                continue
            if all(version.kind == kind for version in versions.values()):
                found[name] = versions
        return found

    def _newest(self, name: str) -> Version | None:
        numbers = self._stored.numbers(name)
        return self._stored.read(name, numbers[-1]) if numbers else None

    def _commit(
        self, name: str, source: Path, digest: str, size: int, base: dict[str, str] | None, kind: Kind
    ) -> Version:
        """The folder first, then the file that makes it a version; on any error nothing is left behind."""
        versions = self._versions(name)
        for dead in versions.glob(".partial-*"):  # of publishers that died: this one holds the lock
            shutil.rmtree(dead, ignore_errors=True)
        partial = versions / f".partial-{uuid.uuid4().hex[:8]}"
        try:
            shutil.copytree(source, partial)
            if digest_folder(partial) != digest:
                raise UserError("its files changed while they were copied", file=source, fix="publish it again")
            sync_folder(partial)
            # A number is never taken twice, whatever became of the first who had it.
            number = max([0, *self._stored.numbers(name), *self._stored.numbers(name, "")]) + 1
            partial.rename(versions / str(number))
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        now = datetime.now(UTC).isoformat(timespec="seconds")
        version = Version(name, number, versions / str(number), digest, size, now, base, kind)
        told = {key: value for key, value in asdict(version).items() if key != "folder"}
        replace_text(self._file(name, number), json.dumps(told, indent=2))
        return version

    def _point(self, name: str, alias: str, number: int) -> int | None:
        told = dict(self._stored.aliases(name))
        now = told.get(alias, {}).get("now")
        if now == number:
            return number
        before = [*told.get(alias, {}).get("before", []), *([] if now is None else [now])]
        told[alias] = {"now": number, "before": before[-_MOST_BEFORE:]}
        replace_text(self._aliases_file(name), json.dumps(told, indent=2))
        return now

    def _versions(self, name: str) -> Path:
        return self.root / name / "versions"

    def _file(self, name: str, number: int) -> Path:
        return self._versions(name) / f"{number}.json"

    def _aliases_file(self, name: str) -> Path:
        return self.root / name / "aliases.json"

    def _canary_file(self, name: str) -> Path:
        return self.root / name / _CANARY

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        self._versions(name).mkdir(parents=True, exist_ok=True)
        (self.root / _MARK).touch()
        with locked(self.root / name / ".lock"):
            yield
