"""Models and adapters to resolve, made in the test's own folder."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from model_files import WIDTH, MakeAdapter, MakeModel, write_adapter, write_model
from remembered import Remembers

from fettle.data.neutral import Neutral
from fettle.errors import UserError
from fettle.registry.folder import FolderRegistry
from fettle.serving.residency import Residency
from fettle.serving.resolve import ServedAdapter

Publish = Callable[..., int]


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    def make(name: str = "base", **config: Any) -> Path:
        return write_model(tmp_path / name, **config)

    return make


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """Adapters over the model `base` of the same folder, unless their config says otherwise."""

    def make(name: str = "support", *, width: int = WIDTH, **config: Any) -> Path:
        return write_adapter(tmp_path / name, tmp_path / "base", width=width, **config)

    return make


@pytest.fixture
def registry(tmp_path: Path) -> FolderRegistry:
    return FolderRegistry(tmp_path / "registry")


@pytest.fixture
def publish(tmp_path: Path, registry: FolderRegistry) -> Publish:
    """`publish("support", "a")`: its next version, whose file says "a", in production unless told otherwise."""

    def make(name: str, said: str, alias: str = "production") -> int:
        folder = tmp_path / f"{name}-{said}"
        folder.mkdir()
        (folder / "adapter_config.json").write_text(json.dumps({"said": said}))
        (folder / "adapter_model.safetensors").write_bytes(said.encode())
        return registry.publish(name, folder, alias=alias).number

    return make


@pytest.fixture
def engine() -> Remembers:
    return Remembers()


@pytest.fixture
def resident(
    registry: FolderRegistry, engine: Remembers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Residency]:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def make(most: int = 4) -> Residency:
        def admit(name: str, folder: Path) -> ServedAdapter:
            said = json.loads((folder / "adapter_config.json").read_text())["said"]
            if said == "other base":
                raise UserError("it was not made for this base")
            if said == "large":
                time.sleep(0.1)
            return ServedAdapter(name, folder, 4, {"temperature": 0.5})

        told: Any = engine
        return Residency(registry, told, admit, lambda _: Neutral([]), most=most)

    return make
