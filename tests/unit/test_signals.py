"""SIGINT and SIGTERM as one exception."""

from __future__ import annotations

import signal
import threading

import pytest

from fettle.errors import Interrupted
from fettle.signals import SIGNALS, handlers_kept, interruptible


@pytest.fixture(autouse=True)
def handlers():
    """The handlers of before, whatever a test does."""
    kept = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_either_signal_raises_with_its_name_even_where_it_was_ignored(number):
    signal.signal(number, signal.SIG_IGN)
    with pytest.raises(Interrupted, match=f"^stopped by {number.name}; it goes on$"), interruptible("; it goes on"):
        signal.raise_signal(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_the_handlers_of_before_are_back_afterwards(number):
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(Interrupted), interruptible():
        signal.raise_signal(number)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_the_clean_up_after_a_signal_is_not_interrupted_again():
    cleaned = False
    with pytest.raises(Interrupted, match="SIGINT"), interruptible():
        try:
            signal.raise_signal(signal.SIGINT)
        finally:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            cleaned = True
    assert cleaned


def test_within_another_block_the_outer_one_tells():
    with (
        pytest.raises(Interrupted, match="^stopped by SIGTERM outer$"),
        interruptible(" outer"),
        interruptible(" inner"),
    ):
        signal.raise_signal(signal.SIGTERM)


def test_leaving_the_inner_block_leaves_the_outer_one_armed():
    with pytest.raises(Interrupted, match="outer"), interruptible("outer"):
        with interruptible("inner"):
            pass
        signal.raise_signal(signal.SIGINT)


def test_outside_the_main_thread_it_does_nothing():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen: list[object] = []

    def block() -> None:
        with interruptible(), handlers_kept():
            seen.extend(signal.getsignal(number) for number in SIGNALS)

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == before


def test_a_handler_that_the_block_replaces_is_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with handlers_kept():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    assert signal.getsignal(signal.SIGTERM) is before
