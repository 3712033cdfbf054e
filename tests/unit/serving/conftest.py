"""Models and adapters to resolve, made in the test's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from model_files import WIDTH, MakeAdapter, MakeModel, write_adapter, write_model


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
