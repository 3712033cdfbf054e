"""API keys in a file, hashed: who may ask, for which models, and how much."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from fettle.artifact import locked, replace_text
from fettle.errors import UserError, did_you_mean

Scope = Literal["infer", "publish", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BEGIN = "fettle-"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Key:
    """name: what logs and metrics call it. digest: SHA-256 of the secret, in hex; of 256 random bits no salt is needed.
    models: patterns as of a shell (`support`, `sales-*`); an adapter's name stands for all its versions. The limits are
    of each minute, and of requests at a time; None is no limit.
    """

    name: str
    digest: str
    scopes: tuple[Scope, ...] = ("infer",)
    models: tuple[str, ...] = ("*",)
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    concurrent: int | None = None
    created: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def may(self, scope: Scope) -> bool:
        """admin may everything."""
        return scope in self.scopes or "admin" in self.scopes


def sees(patterns: tuple[str, ...] | None, model: str) -> bool:
    """Whether a model may be asked for by who sees only such names; None sees all."""
    if patterns is None:
        return True
    names = (model, re.split("[:@]", model)[0])
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names)


def visible_to(key: Key | None) -> tuple[str, ...] | None:
    """The patterns of what a key sees; without a key that is everything."""
    return key.models if key is not None else None


class KeyFile:
    """JSON with one object a key, for its owner's eyes. Who changes it replaces it as a whole; who reads it looks again
    once it was changed."""

    def __init__(self, file: str | Path) -> None:
        self.file = Path(file).expanduser().resolve()
        self._seen: tuple[int, int, int] | None = None
        self._keys: dict[str, Key] = {}

    def all(self) -> list[Key]:
        """As they are now, by name. Raises UserError where the file is no such file."""
        if not self.file.exists():
            return []
        try:
            told: dict[str, Any] = json.loads(self.file.read_text(encoding="utf-8"))
            return [_key(name, one) for name, one in sorted(told.items())]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise UserError(f"not readable as keys ({error})", file=self.file) from error

    def find(self, secret: str) -> Key | None:
        """The key whose secret this is. A file that makes no sense for a while changes nothing."""
        try:
            self._look()
        except (UserError, OSError) as error:
            logger.error("%s", error)
        # Found by its digest: how long that takes says nothing of a secret.
        return self._keys.get(digest_of(secret))

    def create(self, name: str, **told: Any) -> str:
        """A new key's secret, which is told this once and kept nowhere. told: fields of Key. Raises UserError for a
        name that is taken or none, and for what is no scope or limit."""
        if not _NAME.fullmatch(name):
            raise UserError(f"'{name[:80]}' is no name for a key", field="name", expected="letters, digits, . _ -")
        secret = _BEGIN + secrets.token_urlsafe(32)
        key = checked(Key(name=name, digest=digest_of(secret), **told))
        with self._locked():
            there = self.all()
            if any(one.name == name for one in there):
                raise UserError(
                    f"there is a key '{name}'", field="name", fix=f"fettle keys revoke {name}, or take another name"
                )
            self._write([*there, key])
        return secret

    def revoke(self, name: str) -> None:
        """Raises UserError where there is no such key."""
        there = self.all()
        names = [one.name for one in there]
        if name not in names:
            raise UserError(
                f"there is no key '{name}'{did_you_mean(name, names)}", field="name", expected=", ".join(names) or None
            )
        with self._locked():
            self._write([one for one in self.all() if one.name != name])

    def _look(self) -> None:
        try:
            now = self.file.stat()
            seen = now.st_mtime_ns, now.st_size, now.st_ino
        except FileNotFoundError:
            seen = (0, 0, 0)
        if seen != self._seen:
            self._seen = seen  # whatever is in it: it is not read again for every request
            self._keys = {key.digest: key for key in self.all()}

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One at a time changes it, and nobody else reads what is written."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        before = os.umask(0o077)
        try:
            with locked(self.file.with_name(f".{self.file.name}.lock")):
                yield
        finally:
            os.umask(before)

    def _write(self, keys: list[Key]) -> None:
        told = {key.name: {name: value for name, value in asdict(key).items() if name != "name"} for key in keys}
        replace_text(self.file, json.dumps(told, indent=2) + "\n")
        self.file.chmod(0o600)


def digest_of(secret: str) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


def checked(key: Key) -> Key:
    """Raises UserError for what is no scope, no pattern or no limit."""
    for scope in key.scopes:
        if scope not in SCOPES:
            raise UserError(
                f"no scope '{scope}'{did_you_mean(scope, SCOPES)}", field="scope", expected=", ".join(SCOPES)
            )
    if not key.scopes or not key.models or not all(isinstance(one, str) and one for one in key.models):
        raise UserError(
            "a key wants a scope and a pattern of models at least", field="models", expected="as in 'sales-*'"
        )
    for name in ("requests_per_minute", "tokens_per_minute", "concurrent"):
        value = getattr(key, name)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{value} is not a positive number", field=name)
    return key


def _key(name: str, told: dict[str, Any]) -> Key:
    key = Key(name=name, **told)
    return checked(replace(key, scopes=tuple(key.scopes), models=tuple(key.models)))
