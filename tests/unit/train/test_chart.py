"""Charts of a report: what is thinned, what is said in words, and that the page's colours hold."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from fettle.train.chart import MOST, Chart, line_chart, thinned


def chart(*values: float, **told: object) -> Chart:
    points = [(step, value) for step, value in enumerate(values, start=1)]
    return line_chart("domain", "Loss, nats a token", points, x="optimizer step", **told)  # type: ignore[arg-type]


def written(drawn: Chart) -> list[str]:
    """Every text in it."""
    return ["".join(one.itertext()) for one in ElementTree.fromstring(drawn.svg).iter("text")]


def test_a_short_curve_keeps_every_point() -> None:
    assert thinned([(1, 5.0), (2, 3.0)]) == [(1, 5.0, 5.0, 5.0), (2, 3.0, 3.0, 3.0)]


def test_a_long_curve_keeps_the_mean_and_the_ends_of_each_run_of_points() -> None:
    # Seven points, three at most: runs of three, three and one.
    points = [(step, float(step)) for step in range(1, 8)]
    assert thinned(points, most=3) == [(3, 2.0, 1.0, 3.0), (6, 5.0, 4.0, 6.0), (7, 7.0, 7.0, 7.0)]


def test_a_spike_among_many_steps_is_seen_in_the_band() -> None:
    values = [1.0] * 10_000
    values[5000] = 50.0
    found = thinned(list(enumerate(values)))
    assert len(found) <= MOST and max(high for *_, high in found) == 50.0


def test_a_chart_says_in_words_what_it_shows() -> None:
    drawn = chart(3.0, 2.0, 1.25, dots=[(0, 3.5), (3, 1.5)])
    label = ElementTree.fromstring(drawn.svg).attrib["aria-label"]
    assert label == "Loss, nats a token of domain: 3 to 1.25; held out 3.5 to 1.5"


def test_axes_tell_numbers_as_they_are() -> None:
    assert {"0.30", "0.32", "0.40"} <= set(written(chart(0.3, 0.4)))


def test_a_curve_that_spans_a_tenfold_is_logarithmic_if_it_may_be() -> None:
    values = [1e-7, 1e-3, 0.0]
    assert any("10" in text and "−3" in text for text in written(chart(*values, log=True)))
    assert not any("−3" in text for text in written(chart(*values)))


def test_what_is_no_number_is_left_out_and_nothing_is_said_to_be_nothing() -> None:
    assert (
        "3 to 1;" not in chart(3.0, math.nan, math.inf).svg and "domain: 3 to 3" in chart(3.0, math.nan, math.inf).svg
    )
    assert "none measured" in written(chart(math.nan))


def test_no_two_charts_of_a_page_have_an_id_in_common() -> None:
    other = line_chart("instruct", "Loss, nats a token", [(1, 1.0)], x="optimizer step")
    first, second = (set(re.findall(r' id="([^"]+)"', one.svg)) for one in (chart(1.0), other))
    assert first and second and not first & second
