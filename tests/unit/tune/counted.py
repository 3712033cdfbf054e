"""A stage that learns by counting: it adds its rate to a number each step, and its held-out loss is 10 minus that."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

from fettle.artifact import new_artifact
from fettle.train.checkpoint import Checkpoints
from fettle.train.job import GroupMember, StageJob
from fettle.train.progress import ProgressWriter
from fettle.train.rounds import Rounds

DIVERGES = 0.5
"""From this rate on its loss is no number after the third step."""


def counted(job: StageJob, member: GroupMember) -> None:
    """A stage function: real rounds, checkpoints and progress, and nothing that is trained."""
    checkpoints = Checkpoints(job.folder / "checkpoints", job.fingerprint, 2, member.fence)
    latest = checkpoints.latest()
    state = SimpleNamespace(global_step=latest[0] if latest else 0, max_steps=job.spec.max_steps)
    number = json.loads((latest[1] / "number").read_text()) if latest else 0.0
    rounds, control = Rounds(job, 0, 1), SimpleNamespace(should_save=False)
    writer = SimpleNamespace(wait=lambda: None, checkpoints=checkpoints)
    trainer: Any = SimpleNamespace(writer=writer, steps=SimpleNamespace(heldout=()))
    trainer.heldout_measures = lambda examples: {"loss": 10 - number}
    rounds.trainer = trainer
    progress = ProgressWriter(job.progress)
    rounds.on_train_begin(None, state, control)
    while state.global_step < state.max_steps:
        state.global_step += 1
        number += job.spec.lr
        loss = float("nan") if job.spec.lr >= DIVERGES and state.global_step > 3 else 10 - number
        told = {"lr": job.spec.lr, "grad_norm": 1.0, "tokens": 100, "loss_tokens": 10}
        progress.write(step=state.global_step, steps=state.max_steps, loss=loss, **told)
        rounds.on_log(None, state, control, logs={"loss": loss})
        control.should_save = False
        rounds.on_step_end(None, state, control)
        if control.should_save:
            partial = checkpoints.partial(state.global_step, "counted")
            partial.mkdir(parents=True)
            (partial / "number").write_text(json.dumps(number))
            checkpoints.commit(partial, state.global_step)
            rounds.on_save(None, state, control)
    metrics = {"steps": state.global_step, "loss": {"heldout_after": 10 - number}}
    with new_artifact(
        job.artifact, kind="model", name=job.name, fingerprint=job.fingerprint, metrics=metrics
    ) as folder:
        (folder / "number").write_text(json.dumps(number))
