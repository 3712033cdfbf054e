"""An endpoint that starts in a thread beside what has yet to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fettle.errors import UserError
from fettle.serving import soon as soon_module
from fettle.serving.soon import serve_soon


class Served:
    """Stands where `serve` would be: notes what it is told, and whether it was left. holds: until set, it starts."""

    def __init__(self) -> None:
        self.told: list[tuple[Path, dict[str, Any]]] = []
        self.is_left = False
        self.holds = threading.Event()
        self.holds.set()
        self.fails: Exception | None = None

    @contextmanager
    def __call__(self, model: Path, **told: Any) -> Iterator[str]:
        self.told.append((model, told))
        assert self.holds.wait(20)
        if self.fails is not None:
            raise self.fails
        try:
            yield "endpoint"
        finally:
            self.is_left = True


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Served:
    found = Served()
    monkeypatch.setattr(soon_module, "serve", found)
    return found


def test_it_starts_while_the_work_goes_on_and_ends_with_the_block(served):
    served.holds.clear()
    with serve_soon() as soon:
        soon.begin(Path("model"), name="guide")
        assert any(one.name == "endpoint" for one in threading.enumerate())  # it starts, and the work goes on
        served.holds.set()
        soon.begin(Path("model"), name="guide")  # told again at the end of the work: it has begun
        assert soon.endpoint() == "endpoint"
        assert not served.is_left
    assert served.is_left
    assert served.told == [(Path("model"), {"name": "guide"})]


def test_what_it_cannot_serve_is_raised_where_the_endpoint_is_asked_for(served):
    served.fails = UserError("no such model", field="model")
    with serve_soon() as soon:
        soon.begin(Path("model"))
        with pytest.raises(UserError, match="no such model"):
            soon.endpoint()


def test_work_that_fails_ends_an_endpoint_that_was_starting(served):
    served.holds.clear()
    with pytest.raises(RuntimeError, match="the work failed"), serve_soon() as soon:
        soon.begin(Path("model"))
        threading.Timer(0.1, served.holds.set).start()
        raise RuntimeError("the work failed")
    assert served.is_left


def test_nothing_is_started_where_the_work_never_comes_so_far(served):
    with pytest.raises(RuntimeError, match="the work failed"), serve_soon():
        raise RuntimeError("the work failed")
    assert served.told == []
