"""How long a step takes: by what was measured, else by a guess."""

from __future__ import annotations

from pathlib import Path

import pytest

from fettle.needs.rates import Rate, add_rates, estimate, read_rates
from fettle.recipe.cluster import ClusterSpec

CLUSTER = ClusterSpec()


def rate(flops: float, seconds: float, workers: int = 1) -> Rate:
    return Rate("1 CPU core", "train", "fp32", workers, flops, seconds, "2026-11-30")


def test_the_measurement_nearest_in_size_decides() -> None:
    rates = [rate(1e9, 0.1), rate(1e12, 10)]

    # A step of 2e12 operations takes twice as long as one of 1e12.
    found = estimate(2e12, "train", CLUSTER, "fp32", None, rates)

    assert (found.seconds, found.told) == (pytest.approx(20), "as measured on 2026-11-30")


def test_without_a_measurement_of_the_kind_it_is_a_guess() -> None:
    found = estimate(1e12, "rl", CLUSTER, "fp32", None, [rate(1e12, 10)])

    assert found.told == "a guess"


def test_a_new_measurement_takes_the_place_of_the_old_one_of_its_size(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "rates.json"
    add_rates([rate(1e9, 0.1), rate(1e12, 10)], file)
    add_rates([rate(1.1e12, 5)], file)

    assert sorted(one.seconds for one in read_rates(file)) == [0.1, 5]


@pytest.mark.parametrize("text", ["", "{}", '[{"device": 1}]', "[1]"])
def test_a_file_that_holds_no_rates_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "rates.json").write_text(text)

    assert read_rates(tmp_path / "rates.json") == []


def test_what_cannot_be_written_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    add_rates([rate(1e9, 0.1)], tmp_path / "file" / "rates.json")

    assert (tmp_path / "file").read_text() == ""
