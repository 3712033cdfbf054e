"""The recipe as a whole."""

from __future__ import annotations

import hashlib
import json
import os
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr

from fettle.recipe.adapter import FULL, AdapterSpec
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.data import DataSpec
from fettle.recipe.evaluate import EvaluateSpec
from fettle.recipe.from_nothing import Base
from fettle.recipe.kinds import Stage
from fettle.recipe.publish import PublishSpec
from fettle.recipe.spec import Spec, as_kind
from fettle.recipe.stages import TrainingStage
from fettle.recipe.storage import StorageSpec, as_storage
from fettle.recipe.sweep import SweepSpec
from fettle.recipe.tracking import Tracking, TrackingSpec, as_tracking


class Recipe(Spec):
    """A base model and the stages it goes through."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """Names the run and the model it publishes."""
    base: Base = "tiny"
    """The bundled model's name (`tiny`), a folder, a hub id, or what to make one of, to begin from nothing."""
    chat_template: str | None = None
    """A chat template in place of the base's: chatml, llama3, mistral, gemma, qwen, or a .jinja file."""
    seed: int = Field(0, ge=0)
    """Of shuffling, dropout and adapter initialisation."""
    cluster: ClusterSpec = ClusterSpec()
    """The worker group of every stage that names none of its own."""
    adapter: Annotated[AdapterSpec, BeforeValidator(as_kind)] = FULL
    """The adapter of every stage that names none of its own."""
    stages: tuple[Stage, ...] = Field(min_length=1)
    """In the order they run."""
    evaluate: tuple[EvaluateSpec, ...] = ()
    """After the last stage: the base compared with its result, or with that of every stage, on held-out records."""
    publish: PublishSpec | None = None
    """Where the result goes, once it has reached what `evaluate` wants of it."""
    tracking: Annotated[Tracking, BeforeValidator(as_tracking)] = TrackingSpec()
    """Where the run is told: an address or a folder, or `off`."""
    storage: Annotated[StorageSpec | None, BeforeValidator(as_storage)] = None
    """Where the run's folder is kept a second time, so that the same command goes on from there on another machine:
    `s3://BUCKET/PREFIX`, or a folder; `off`."""
    sweep: SweepSpec | None = None
    """What `fettle sweep` searches; `fettle run` takes the recipe's own values."""

    _file: Path = PrivateAttr(default=Path("recipe.yaml"))
    _lines: dict[str, int] = PrivateAttr(default_factory=dict)
    _tree: dict[str, Any] = PrivateAttr(default_factory=dict)
    _sweep_file: Path | None = PrivateAttr(default=None)
    _autos: tuple[str, ...] = PrivateAttr(default=())

    @property
    def file(self) -> Path:
        """The file it was read from."""
        return self._file

    @property
    def tree(self) -> dict[str, Any]:
        """What is in the file, with what was laid over it: a copy, without defaults."""
        return deepcopy(self._tree)

    @property
    def autos(self) -> tuple[str, ...]:
        """Dotted keys that say `auto`: each has its default here, until something is measured."""
        return self._autos

    def line(self, field: str) -> int | None:
        """The line of a dotted field (`stages.sft.lr`), or of the nearest part above it that is in the file."""
        while field:
            if field in self._lines:
                return self._lines[field]
            field = field.rpartition(".")[0]
        return None

    def where(self, field: str) -> dict[str, Any]:
        """`file`, `line` and `field` of a UserError about a dotted field."""
        file = self._sweep_file if self._sweep_file is not None and field.partition(".")[0] == "sweep" else self._file
        return {"file": file, "line": self.line(field), "field": field}

    def resolve(self, path: str) -> Path:
        """A path of the recipe, relative to the recipe's file; of a link its own, as its target may have no suffix."""
        return Path(os.path.abspath(self._file.parent / Path(path).expanduser()))

    def replayed(self, stage: TrainingStage) -> tuple[DataSpec, ...]:
        """The sources a stage replays: a path's, or where nothing is there, those of the earlier stage so named."""
        if stage.replay is None:
            return ()
        data = stage.replay.data
        if data.model_fields_set == {"path"} and not self.resolve(data.path).exists():
            for earlier in self.stages[: [one.name for one in self.stages].index(stage.name)]:
                if earlier.name == data.path and isinstance(earlier, TrainingStage):
                    return earlier.data
        return (data,)

    def digest(self) -> str:
        """Hexadecimal sha256 of every setting that changes what a run does, whatever the file's layout was."""
        told = self.model_dump(mode="json", exclude={"tracking", "storage", "sweep"})
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
