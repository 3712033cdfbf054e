"""When a stage ends early, and which weights it keeps: a trainer that only tells losses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fettle.recipe.optimizer import EarlyStopSpec
from fettle.train.early import EarlyStopping


class Trainer:
    """Held-out losses in a row, and what was asked of it."""

    def __init__(self, losses):
        self.losses, self.taken = list(losses), []
        self.steps = SimpleNamespace(heldout=["example"])

    def heldout_measures(self, examples):
        return {"loss": self.losses.pop(0)}

    def take_weights(self, step):
        self.taken.append(step)


def stage(losses, max_steps=100, checkpoint=None, start=0, **keys):
    """(the step after which it ended, the steps at which it asked to save, the step whose weights it took back)."""
    early = EarlyStopping(EarlyStopSpec(**{"every": 10, "patience": 2} | keys), checkpoint)
    early.trainer = Trainer(losses)
    saved = []
    control = SimpleNamespace(should_save=False, should_training_stop=False)
    state = SimpleNamespace(global_step=start, max_steps=max_steps)
    while state.global_step < max_steps and not control.should_training_stop:
        state.global_step += 1
        control.should_save = False
        early.on_step_end(None, state, control)
        saved += [state.global_step] if control.should_save else []
    early.on_train_end(None, state, control)
    return state.global_step, saved, early.trainer.taken, early


def test_it_ends_after_patience_measurements_that_are_no_better_and_takes_the_best_weights():
    # At 10, 20, 30, 40; the last two are no better than that at 20.
    assert stage([3.0, 2.0, 2.5, 2.0])[:3] == (40, [10, 20], [20])


def test_an_improvement_begins_the_count_anew():
    assert stage([3.0, 3.5, 2.0, 2.5, 1.0, 1.5, 1.5])[:3] == (70, [10, 30, 50], [50])


def test_an_improvement_has_to_be_larger_than_min_delta():
    assert stage([3.0, 2.95, 2.91], min_delta=0.1)[:3] == (30, [10], [10])
    # Small ones add up.
    assert stage([3.0, 2.95, 2.85, 2.8, 2.8], min_delta=0.1)[:3] == (50, [10, 30], [30])


def test_keeping_the_last_weights_saves_nothing_more():
    assert stage([3.0, 3.0, 3.0], keep="last")[:3] == (30, [], [])


def test_the_last_step_is_measured_too():
    assert stage([3.0, 2.0, 1.0], max_steps=25)[:3] == (25, [10, 20, 25], [])


def test_a_loss_that_is_no_number_is_no_improvement():
    assert stage([float("nan")] * 2)[:3] == (20, [], [])


@pytest.mark.parametrize("at", [20, 30])
def test_what_was_measured_goes_on_from_a_checkpoint(tmp_path, at):
    losses = [3.0, 2.0, 2.5, 2.0]
    *_, early = stage(losses[: at // 10], max_steps=at)
    early.write(tmp_path)
    assert stage(losses[at // 10 :], start=at, checkpoint=tmp_path)[0] == 40


def test_a_stage_that_had_ended_knows_it(tmp_path):
    *_, early = stage([3.0, 3.0, 3.0])
    early.write(tmp_path)
    again = EarlyStopping(EarlyStopSpec(every=10, patience=2), tmp_path)
    assert (again.has_ended, again.kept_step) == (True, 10)
