"""The small house, made anew for each test."""

from __future__ import annotations

import shutil
import uuid
from pathlib import Path

import pytest
from s3_server import S3Server
from small_house import House, chat, finish, lines, write_base
from storage_house import StorageHouse

from fettle.pipeline.graph import PlannedStage
from fettle.pipeline.recorded import EMBEDDED
from fettle.pipeline.tracker import Tracker


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("house") / "base")


@pytest.fixture
def house(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> House:
    """The house; no RAY_ADDRESS, a cache of its own, and a machine of 4 CPUs without bf16."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    monkeypatch.setattr("fettle.models.precision.has_fast_bf16", lambda: False)
    shutil.copytree(base_folder, tmp_path / "base")
    (tmp_path / "corpus.txt").write_text("Once upon a time there was a night train.\n" * 20)
    (tmp_path / "chat.jsonl").write_text(lines([chat(number) for number in range(20)]))
    (tmp_path / "general.jsonl").write_text(lines([chat(number) for number in range(100, 110)]))
    stages = [
        {"name": "domain", "kind": "pretrain", "data": "corpus.txt"},
        {"name": "instruct", "kind": "sft", "data": "chat.jsonl"},
    ]
    top = {"name": "northline", "base": "base", "adapter": "full", "tracking": "off"}  # MLflow takes seconds to start
    return House(tmp_path, {**top, "stages": stages})


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracker's, which MLflow takes seconds to make."""
    file = tmp_path_factory.mktemp("tracker") / "mlflow.db"
    Tracker(f"sqlite:///{file}").client.search_experiments()
    return file


@pytest.fixture
def tracked(house: House, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """The house with an empty tracker, to which its runs are told. Its second stage replays, and makes an adapter."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (house.folder / EMBEDDED).mkdir()
    shutil.copy(empty_database, house.folder / EMBEDDED)
    replay = {"data": "general.jsonl", "fraction": 0.2}
    adapter = {"kind": "lora", "r": 4}
    return house.with_stages(
        {"name": "domain", "kind": "pretrain", "data": "corpus.txt"},
        {"name": "instruct", "kind": "sft", "data": "chat.jsonl", "replay": replay, "adapter": adapter},
        tracking={},
    )


@pytest.fixture
def stored(house: House, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> StorageHouse:
    """The house with an empty bucket, into which this process is let."""
    for key, value in {**s3.env, "AWS_EC2_METADATA_DISABLED": "true", "HOME": str(house.folder)}.items():
        monkeypatch.setenv(key, value)
    bucket = f"runs-{uuid.uuid4().hex[:8]}"
    s3.fs.create_dir(bucket)
    return StorageHouse(house, s3, bucket)


@pytest.fixture
def planned(house: House) -> list[PlannedStage]:
    """Two stages that are done; the second goes on from an adapter."""
    stages = house.plan(adapter={"kind": "lora", "r": 4}, stages__domain__adapter="full")
    house.out.mkdir()
    for stage in stages:
        finish(stage)
    return stages
