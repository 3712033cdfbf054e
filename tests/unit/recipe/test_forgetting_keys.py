"""The keys of parity, and of what holds a stage to its base: how they may be written, and what is said otherwise."""

from __future__ import annotations

import pytest

from fettle.recipe.publish import ParitySpec

ONE = "name: x\nstages:\n  - {name: task, kind: sft, data: a.jsonl}\n"
MERGED = ONE + "  - {name: between, kind: merge, interpolate: {data: b.jsonl, budget: 0.02}}\n"


def test_parity_is_wanted_unless_it_is_off(load):
    published = ONE + "publish: {registry: r}\n"
    assert load(published).publish.parity == ParitySpec()
    assert load(published.replace("r}", "r, parity: off}")).publish.parity == "off"


def test_a_merge_interpolates_by_a_grid_of_eleven(load):
    assert load(MERGED).stages[1].interpolate.steps == 11


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (ONE + "publish: {registry: r, parity: {max_difference: 1}}\n", "one of max_logprob_difference, min_agreement"),
        (ONE + "publish: {registry: r, parity: {min_agreement: 2.0}}\n", "publish.parity.min_agreement"),
        (MERGED.replace("budget", "bugdet"), "unknown key (did you mean 'budget'?)"),
        (MERGED.replace("0.02", "-1"), "stages.between.interpolate.budget"),
        (ONE.replace("a.jsonl", "a.jsonl, kl_to_base: 0"), "stages.task.kl_to_base"),
        (ONE.replace("sft", "distill").replace("a.jsonl", "a.jsonl, teacher: tiny, kl_to_base: 1"), "unknown key"),
    ],
)
def test_a_mistake_is_told_where_it_is(told, lines, why):
    assert why in told(lines)
