"""A recipe's `auto`s before a plan or a run: looked up where they were chosen before, else measured, here or, where a
run joins a cluster, on one of its workers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from threading import Timer
from typing import Any

from ray.exceptions import RayError

from fettle.artifact import replace_text
from fettle.cluster import ray_session
from fettle.models.precision import instruction_set
from fettle.needs.machines import Machines, this_machine
from fettle.output import cache_folder
from fettle.pipeline.choosing import Choice, Chooser, Known, Measure
from fettle.pipeline.trial import Trial, as_text, from_text
from fettle.recipe import Recipe

_LONGEST_S = 120.0
CHOSEN = "auto.json"
"""In a run's folder: what was chosen for it, which it keeps on any machine that it goes on on."""


@dataclass(frozen=True)
class Chosen:
    """recipe: without `auto`. choices: what stands there. used: the same, as a run keeps it."""

    recipe: Recipe
    choices: tuple[Choice, ...] = ()
    used: Known = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        return [f"auto      {one}" for one in self.choices]

    def keep(self, out: Path) -> None:
        """Writes into a run's folder what was chosen for it."""
        if self.used:
            replace_text(out / CHOSEN, json.dumps(_read(out / CHOSEN) | self.used, indent=1))


def chosen_for(recipe: Recipe, out: Path, until: str | None = None, elsewhere: Machines | None = None) -> Chosen:
    """What stands for the recipe's `auto`s, up to and with the stage `until`. elsewhere: machines that are not here,
    where nothing is measured. Raises UserError where a base or data is not there, or no cluster answers."""
    if not recipe.autos:
        return Chosen(recipe)
    if elsewhere is not None:
        found, choices = Chooser(elsewhere, None).choose(recipe, until)
        return Chosen(found, tuple(choices))
    on = _on_cluster(recipe) if os.environ.get("RAY_ADDRESS") else _here(recipe, out)
    with on as (machines, measure):
        cache = _cache(machines)
        chooser = Chooser(machines, measure, _read(cache) | _read(out / CHOSEN))
        found, choices = chooser.choose(recipe, until)
    with suppress(OSError):
        cache.parent.mkdir(parents=True, exist_ok=True)
        replace_text(cache, json.dumps(_read(cache) | chooser.used, indent=1))
    return Chosen(found, tuple(choices), chooser.used)


def _cache(machines: Machines) -> Path:
    """What was chosen before on hardware like this with this torch."""
    what = machines.gpu.name if machines.gpu is not None else f"{os.cpu_count()} cores {instruction_set()}"
    name = re.sub("[^A-Za-z0-9.]+", "-", f"{what} torch {version('torch')}")
    return cache_folder("auto") / f"{name}.json"


def _read(file: Path) -> Known:
    """What was chosen before; nothing where the file is not there, or is no such file."""
    try:
        return {key: (value, str(told)) for key, (value, told) in json.loads(file.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@contextmanager
def _here(recipe: Recipe, out: Path) -> Iterator[tuple[Machines, Measure]]:
    """In a process of its own: what it takes of memory and threads is gone afterwards, and what fails fails there."""
    from fettle.train.group import worker_env

    command = [sys.executable, "-m", "fettle.pipeline.autos"]
    environment = os.environ | worker_env(recipe.cluster)
    environment |= {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    process: subprocess.Popen[str] | None = None

    def measure(trial: Trial) -> float | None:
        nonlocal process
        if process is None:
            print("auto      is measured: a minute for a stage, at most", file=sys.stderr, flush=True)
            pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            process = subprocess.Popen(command, env=environment, text=True, **pipes)
        if process.poll() is not None:  # too little memory for one of those before
            return None
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(as_text(trial) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return None
        ends = Timer(_LONGEST_S, process.kill)
        ends.start()
        line = process.stdout.readline()
        ends.cancel()
        return json.loads(line) if line else None

    try:
        yield this_machine(out), measure
    finally:
        if process is not None:
            process.kill()
            process.communicate()


@contextmanager
def _on_cluster(recipe: Recipe) -> Iterator[tuple[Machines, Measure]]:
    """On a worker of the cluster that RAY_ADDRESS names, of the size of the recipe's own."""
    import ray

    from fettle.train.group import check_fits

    def measure(trial: Trial) -> float | None:
        try:
            found: float | None = ray.get(actor.measure.remote(trial), timeout=_LONGEST_S)
        except RayError:  # too little memory for it, or for one of those before
            return None
        return found

    cluster = next((s.cluster for s in recipe.stages if s.cluster is not None), recipe.cluster)
    with ray_session():
        check_fits(cluster.model_copy(update={"workers": 1, "min_workers": None}))
        there: Any = ray.remote(_There).options(num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker)
        actor = there.remote()
        try:
            yield ray.get(actor.machines.remote()), measure
        finally:
            ray.kill(actor)


class _There:
    def machines(self) -> Machines:
        return this_machine()

    def measure(self, trial: Trial) -> float | None:
        from fettle.pipeline.probe import seconds_of  # not for the driver: it brings what trains

        return seconds_of(trial)


def _answer() -> None:
    """A line of seconds for each line that is a trial; what libraries print goes elsewhere."""
    from fettle.pipeline.probe import seconds_of

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        print(json.dumps(seconds_of(from_text(line))), file=answers, flush=True)


if __name__ == "__main__":
    _answer()
