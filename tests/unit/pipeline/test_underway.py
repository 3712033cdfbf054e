"""What a run says of stages that an earlier attempt has begun."""

from __future__ import annotations

import pytest

from fettle.pipeline.planned import Planned
from fettle.pipeline.underway import underway
from fettle.train.checkpoint import Checkpoints, Fence


@pytest.fixture
def fence(house) -> Fence:
    (house.folder / ".epoch").write_text("first")
    return Fence(house.folder / ".epoch", "first")


@pytest.fixture
def domain(house) -> Planned:
    return house.plan()[0]


def save(stage: Planned, step: int, fence: Fence, fingerprint: str | None = None) -> Checkpoints:
    checkpoints = Checkpoints(stage.folder / "checkpoints", fingerprint or stage.fingerprint, keep=9, fence=fence)
    written = checkpoints.partial(step, "attempt")
    written.mkdir(parents=True)
    (written / "state").write_text("learned")
    checkpoints.commit(written, step)
    return checkpoints


def test_nothing_is_said_of_a_stage_that_was_never_begun(domain, fence):
    assert underway([domain], fence) == []


def test_the_step_it_goes_on_from_is_told(domain, fence):
    save(domain, 1000, fence)
    assert underway([domain], fence) == ["domain: goes on from step 1,000"]


def test_why_a_later_one_is_not_taken_is_told_too(domain, fence):
    save(domain, 5, fence)
    (save(domain, 10, fence).path(10) / "state").write_text("rotten!")
    assert underway([domain], fence) == [
        "domain: the checkpoint of step 10 is not taken: state has other bytes than were written (its sha256 differs)",
        "domain: goes on from step 5",
    ]


def test_it_never_begins_anew_without_a_word(domain, fence):
    save(domain, 10, fence, fingerprint="another")
    said = underway([domain], fence)
    assert "domain: the checkpoint of step 10 is not taken: another stage has written it" in said[0]
    assert said[1] == "domain: begins anew; there is no earlier checkpoint"
