"""What every test may use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from s3_server import S3Server, s3_server
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared"

# They start Ray or an engine: two at a time would take each other's cores, and time out.
_ENGINES = (
    *(
        "test_demo",
        "test_engine",
        "test_engine_weights",
        "test_family_serving",
        "test_generated_answers",
        "test_kills",
        "test_judged",
        "test_nodes",
        "test_parity",
        "test_quantized_engine",
        "test_rollouts",
        "test_run",
    ),
    *("test_rl_faults", "test_rl_stage", "test_rl_workers"),
    *("test_serving", "test_serving_client", "test_serving_heads", "test_serving_models", "test_submit", "test_sweep"),
)


class _FilesAndEngines(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Each file's tests in one process, which share what they start; those with engines all in the same one."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "engines" if Path(file).stem in _ENGINES else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadFileScheduling:
    """How `pytest -n 2` shares the tests out."""
    return _FilesAndEngines(config, log)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and models beside the checkout; the test is skipped where it is missing."""
    if not SHARED.is_dir():
        pytest.skip("../shared is not here")
    return SHARED


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, up; it takes seconds to start."""
    with s3_server(tmp_path_factory.mktemp("s3") / "log") as server:
        yield server
