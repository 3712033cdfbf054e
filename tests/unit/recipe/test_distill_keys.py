"""The keys of a distillation belong to its losses."""

from __future__ import annotations

import pytest

from fettle.errors import UserError

RECIPE = "name: a\nstages:\n  - name: s\n    kind: distill\n    teacher: tiny\n    data: x.jsonl\n"


def stage(load, *lines: str):
    return load(RECIPE + "".join(f"    {line}\n" for line in lines)).stages[0]


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ((), (0.5, 1.0, None, None)),
        (("loss: reverse_kl", "alpha: 1.0"), (1.0, 1.0, None, None)),
        (("loss: jsd",), (0.5, 1.0, 0.5, None)),
        (("loss: answers",), (None, None, None, 256)),
    ],
)
def test_each_loss_has_its_own_defaults(load, lines, told):
    spec = stage(load, *lines)
    assert (spec.alpha, spec.temperature, spec.beta, spec.max_new_tokens) == told


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (
            ("loss: answers", "alpha: 0.5"),
            "alpha has no effect with loss: answers; it belongs to loss: forward_kl, rev",
        ),
        (("loss: forward_kl", "beta: 0.5"), "beta has no effect with loss: forward_kl; it belongs to loss: jsd"),
        (("max_new_tokens: 8",), "max_new_tokens has no effect with loss: forward_kl; it belongs to loss: answers"),
        (("loss: answers", "streaming: true", "max_steps: 3"), "streaming has no effect with loss: answers"),
        (("alpha: 0",), "alpha"),  # the teacher would have no effect
    ],
)
def test_a_key_without_effect_is_refused(load, lines, told):
    with pytest.raises(UserError, match=told):
        stage(load, *lines)
