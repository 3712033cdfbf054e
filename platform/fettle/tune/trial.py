"""One trial on its worker: the recipe's stages with its settings, in this process or on a worker group, in rounds."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

from fettle.artifact import is_artifact, locked, read_artifact
from fettle.errors import StageFailed
from fettle.models.shared import KeptBases
from fettle.output import print_into
from fettle.pipeline.evaluated import Retention
from fettle.pipeline.evaluation import compare
from fettle.pipeline.planned import Planned, PlannedLearning
from fettle.pipeline.prepare import prepare
from fettle.recipe.load import varied
from fettle.train.checkpoint import Checkpoints
from fettle.train.group import run_group
from fettle.train.job import GroupMember, Job, LearnJob
from fettle.train.progress import PROGRESS, curve
from fettle.train.rounds import TOLD, Paused, Round, read_rounds, take_over, tell, write_rounds
from fettle.train.worker import run_member
from fettle.tune.holding import hold, one_of
from fettle.tune.ledger import Ledger, Past, Row
from fettle.tune.study import Sweep, figure, is_alone, measure_of, trial_id

_POLL_S = 0.02
Pair = tuple[Job, Planned]


class Trial:
    """drawn: its settings, as a search has drawn them. bases: frozen weights of the trial before."""

    def __init__(self, sweep: Sweep, drawn: Mapping[str, Any], bases: KeptBases) -> None:
        assert sweep.recipe.sweep is not None
        self.sweep, self.spec, self.bases = sweep, sweep.recipe.sweep, bases
        self.settings, self.member = sweep.settings(drawn)
        self.id = trial_id(self.settings, self.member)
        self.ledger = Ledger(sweep.out)
        self.stages = sweep.planned(self.settings, self.member)
        self.last = self.stages[-1]
        self.failure, self.is_paused = "", False
        self._thread: threading.Thread | None = None
        row = self.ledger.read(self.id)
        # Stages that are the same in all trials were trained before, and nobody has told those how far they may go.
        own = (stage.folder for stage in self.stages if not stage.is_done or (stage.folder / TOLD).is_file())
        progress = tuple(str(folder / PROGRESS) for folder in own)
        self.row = row or Row(self.id, self.settings, self.settings, began=time.time(), progress=progress)
        if self.row.settings != self.settings:
            self.row = replace(self.row, settings=self.settings)
        if not self.row.is_over:
            self.ledger.write(self.row)
        # A population goes on from where it was; others tell the search once more what it was told before.
        self.round = len(self.row.past) if self.member is not None else 0

    def step(self) -> dict[str, Any]:
        """Trains a round, or tells what is known of it. Never raises: a trial that fails is told as the worst."""
        self.round += 1
        began = time.monotonic()
        past = next((one for one in self.row.past if one.round == self.round), None)
        if past is None and not self.row.is_over:
            past = self._trained()
            if past is None:  # the sweep ends, and may be gone on with
                return {"score": self.spec.metric.worst, "round": self.round, "done": True}
            self._write(past, time.monotonic() - began)
        known = self.row.score if self.row.state == "done" else None
        score = past.score if past is not None else known
        # A member of a population that fails takes over another's weights; if it ended, all others would wait for it.
        is_rescued = self.member is not None and self.row.state == "failed" and self.round < self.spec.num_rounds
        return {
            "score": score if score is not None and math.isfinite(score) else self.spec.metric.worst,
            "round": self.round,
            "done": self.row.is_over and self.round >= len(self.row.past) and not is_rescued,
        }

    def pause(self) -> None:
        """Ends what is under way, which leaves a checkpoint; nothing is lost."""
        if self._thread is not None:
            self._tell(None)
            self._thread.join()
        self._thread = None

    def save(self, into: Path) -> None:
        """Writes down where another trial can go on from: this round's checkpoint, which is held for it."""
        self.pause()
        step = self._checkpoints.latest()
        if step is not None and self.member is not None:
            hold(step[1], self.last.folder / "held")
        told = {"id": self.id, "round": self.round, "step": step[0] if step else 0, "folder": self.last.folder.name}
        (into / "trial.json").write_text(json.dumps(told), encoding="utf-8")

    def go_on_from(self, saved: Path) -> None:
        """Goes on from where a trial, this one or another, was saved."""
        told = json.loads((saved / "trial.json").read_text(encoding="utf-8"))
        self.round = told["round"]
        if told["id"] == self.id or not told["step"]:
            return
        other = self.sweep.out / "stages" / told["folder"]
        take_over(other / "held" / f"step-{told['step']:08d}", told["step"], self._checkpoints)
        write_rounds(self.last.folder, [row for row in read_rounds(other) if row.number <= self.round])
        steps = [line for line in _lines(other / PROGRESS) if json.loads(line)["step"] <= told["step"]]
        (self.last.folder / PROGRESS).write_text("".join(f"{line}\n" for line in steps), encoding="utf-8")
        self.row = replace(self.row, state="running", error="", ended=None, took=told["id"])
        self.ledger.write(self.row)

    @property
    def _checkpoints(self) -> Checkpoints:
        assert isinstance(self.last, PlannedLearning)
        keep = self.last.spec.checkpoint.keep
        return Checkpoints(self.last.folder / "checkpoints", self.last.fingerprint, keep, self.sweep.fence)

    def _tell(self, rounds: int | None) -> None:
        for stage in self.stages:
            if not stage.is_done:
                tell(stage.folder, 1 if rounds is not None and stage is not self.last else rounds)

    def _trained(self) -> Past | None:
        """The round that is over now: what it came to. None: it was ended in the middle."""
        self._tell(self.round)
        if self._thread is None:
            self.failure, self.is_paused = "", False
            self._thread = threading.Thread(target=self._work, name=self.id, daemon=True)
            self._thread.start()
        while self._thread.is_alive() and self._measured is None:
            self._thread.join(_POLL_S)
        if self.is_paused:
            self._thread = None
            return None
        row, score = self._measured, None
        if not self._thread.is_alive():
            self._thread = None
        try:
            if self.failure:
                raise StageFailed(self.failure)
            if is_artifact(self.last.artifact):
                score = self._final()
            elif row is not None:
                score = row.measures[measure_of(self.spec.metric.name)]
            if score is None or not math.isfinite(score):
                raise StageFailed(f"{self.spec.metric.name} is {score}")
        except Exception as error:
            self.failure, score = _told(error), None
        step = max((row.step for row in curve(self.last.folder / PROGRESS)), default=0)
        return Past(self.round, step, score, self.settings, self.row.took)

    @property
    def _measured(self) -> Round | None:
        return next((row for row in read_rounds(self.last.folder) if row.number == self.round), None)

    def _work(self) -> None:
        try:
            log = self.sweep.out / "logs" / f"{self.id}.log"
            print_into(log)
            waiting = [stage for stage in self.stages if not stage.is_done]
            jobs, _ = prepare(varied(self.sweep.recipe, self.settings), waiting, self.sweep.out / "tokens")
            pairs = [(self._in_rounds(job), stage) for job, stage in zip(jobs, waiting, strict=True)]
            with self._slot():
                for group in _groups(pairs):
                    with ExitStack() as locks:  # another trial may have the same stage, then one of them waits
                        for _, stage in group:
                            locks.enter_context(locked(stage.folder.with_name(f".{stage.folder.name}.lock")))
                        self._run([(job, stage) for job, stage in group if not stage.is_done], log)
        except Paused:
            self.is_paused = True
        except BaseException as error:
            self.failure = _told(error)  # not the error itself, whose frames hold the model

    def _run(self, pairs: list[Pair], log: Path) -> None:
        if not pairs:
            return
        stages = [(job, self.sweep.functions[stage.spec.kind]) for job, stage in pairs]
        cluster = pairs[0][1].cluster
        if is_alone(pairs[0][1]):
            run_member(stages, GroupMember(0, 1, cluster, self.sweep.fence, bases=self.bases), None)
        else:
            run_group(stages, cluster, fence=self.sweep.fence, out=self.sweep.out, logs=log.with_suffix(""))

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """Of a population as many work as there is room for; Tune counts how many other trials are begun."""
        if self.member is None:
            yield
            return
        slots = [self.sweep.out / "ray" / f".slot-{number}" for number in range(self.sweep.concurrent)]
        with one_of(slots):
            yield

    def _in_rounds(self, job: Job) -> Job:
        if not isinstance(job, LearnJob):
            return job
        return replace(job, rounds=self.spec.num_rounds if job.name == self.last.spec.name else 1)

    def _final(self) -> float | None:
        """What the finished trial is judged by."""
        evaluated = self.spec.metric.evaluated
        if evaluated is None:
            return figure(read_artifact(self.last.artifact).metrics, self.spec.metric.name)
        number, score = evaluated
        recipe = varied(self.sweep.recipe, self.settings)
        recipe = recipe.model_copy(update={"evaluate": (recipe.evaluate[number],)})
        with locked(self.sweep.out / ".evaluating"):  # engines want a machine to themselves, and all have one base
            (found,) = compare(recipe, self.stages, self.sweep.out, print)
        scores = found.after.scores
        if isinstance(found, Retention):
            scores = {**scores, "forgetting": found.stages[-1].forgetting}
        if score not in scores:
            raise StageFailed(f"evaluate.{number} has no score '{score}'; it has {', '.join(scores)}")
        return float(scores[score]["mean"])

    def _write(self, past: Past, seconds: float) -> None:
        rows = [row for file in self.row.progress for row in curve(Path(file))]
        is_done = is_artifact(self.last.artifact) and not self.failure
        self.row = replace(
            self.row,
            state="failed" if self.failure else "done" if is_done else "running",
            score=past.score if past.score is not None else self.row.score,
            error=self.failure,
            seconds=round(self.row.seconds + seconds, 2),
            steps=len(rows),
            tokens=sum(row.tokens for row in rows),
            ended=time.time() if self.failure or is_done else None,
            past=(*self.row.past, past),
            took=None,
            artifact=str(self.last.artifact) if is_done else None,
        )
        self.ledger.write(self.row)


def _groups(pairs: list[Pair]) -> list[list[Pair]]:
    """What is trained one after the other by the same processes: a worker group takes half a minute to start."""
    if all(is_alone(stage) for _, stage in pairs):
        return [[pair] for pair in pairs]
    return [list(group) for _, group in groupby(pairs, key=lambda pair: (is_alone(pair[1]), pair[1].cluster))]


def _told(error: BaseException) -> str:
    return (str(error).strip() or repr(error)).splitlines()[0][:300]


def _lines(file: Path) -> Iterator[str]:
    with open(file, encoding="utf-8") as stream:
        yield from (line.rstrip("\n") for line in stream if line.endswith("\n"))
