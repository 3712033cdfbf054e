"""Who answers: a name turned into the base or an adapter over it, its chat template, and what ends its answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from fettle.artifact import digest_folder
from fettle.data.coder import end_ids
from fettle.errors import UserError, did_you_mean
from fettle.models.base import digest_of, load_tokenizer, template_in
from fettle.registry.folder import FolderRegistry, Version
from fettle.registry.reference import parsed
from fettle.serving.resolve import ServedAdapter, ServedModel, admitted
from fettle.serving.weights import Shapes, check_model


@dataclass(frozen=True)
class Answerer:
    """What answers to `name`. adapter: None for the base; its name is what engines call it. version: where the adapter
    is published, the one that the name meant when it was looked up. tokenizer: with the adapter's own chat template,
    where it has one. end_ids: at which its answers end, as when it is served and when it is evaluated."""

    name: str
    adapter: ServedAdapter | None
    version: Version | None
    tokenizer: PreTrainedTokenizerBase
    end_ids: tuple[int, ...]

    @property
    def told(self) -> dict[str, str]:
        """What a row says of who answered it."""
        version = {"version": self.version.id, "digest": self.version.digest} if self.version is not None else {}
        return {"model": self.name, **version}

    @cached_property
    def digest(self) -> str:
        """Over the adapter's files; empty for the base."""
        if self.version is not None:
            return self.version.digest
        return digest_of(self.adapter.folder) if self.adapter is not None else ""


class Answerers:
    """Those that `served` names, and the adapters that are published in `registry`; each is looked up once, so that an
    alias which moves meanwhile changes nothing."""

    def __init__(self, served: ServedModel, registry: str | Path | None = None) -> None:
        self.served = served
        self._registry = FolderRegistry(registry) if registry is not None else None
        self._found: dict[str, Answerer] = {}

    def find(self, name: str, **where: Any) -> Answerer:
        """Who answers to `name`. where: file, line, field of the UserError raised where nobody does, or where a
        published version is not what was published, or was made for another base."""
        if name not in self._found:
            adapter, version = self._adapter(name, where)
            folder = self.served.folder
            tokenizer = load_tokenizer(folder, template_in(adapter.folder) if adapter is not None else None)
            further = adapter.defaults.get("stop_token_ids", []) if adapter is not None else []
            ends = tuple(dict.fromkeys((*end_ids(tokenizer), *further)))
            self._found[name] = Answerer(name, adapter, version, tokenizer, ends)
        return self._found[name]

    def serving(self, names: Iterable[str]) -> ServedModel:
        """The base, with those adapters alone that answer to one of the names, each once."""
        used = [self._found[name].adapter for name in names]
        adapters = {adapter.name: adapter for adapter in used if adapter is not None}
        return replace(self.served, adapters=tuple(adapters.values()))

    def _adapter(self, name: str, where: dict[str, Any]) -> tuple[ServedAdapter | None, Version | None]:
        if name == self.served.name:
            return None, None
        given = {adapter.name: adapter for adapter in self.served.adapters}
        if name in given:
            return given[name], None
        wanted = parsed(name) if self._registry is not None else None
        if self._registry is None or wanted is None or not self._registry.versions(wanted.name):
            published = self._registry.names() if self._registry is not None else []
            known = [*self.served.names, *published]
            fix = "--registry FOLDER, if it is published there" if self._registry is None else None
            raise UserError(
                f"no model '{name}'{did_you_mean(name, known)}", **where, expected=", ".join(known), fix=fix
            )
        try:
            version = self._registry.find(wanted)
        except UserError as error:
            raise UserError(error.got, **where, expected=error.expected, fix=error.fix) from None
        if digest_folder(version.folder) != version.digest:
            raise UserError(
                f"the files of {version.id} are not those that were published",
                file=version.folder,
                fix=f"publish it again, and ask for the new version in place of {name}",
            )
        return admitted(version.id, version.folder, self.served.folder, self._shapes), version

    @cached_property
    def _shapes(self) -> Shapes:
        return check_model(self.served.folder)
