"""What became of every trial, in files of JSON: what a sweep that was killed goes on from. No pickle is read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fettle.artifact import replace_text
from fettle.errors import UserError
from fettle.recipe import Recipe
from fettle.train.progress import curve
from fettle.tune.space import Settings

FOLDER = "trials"
_SWEEP = "sweep.json"
State = Literal["running", "done", "stopped", "failed"]


@dataclass(frozen=True)
class Past:
    """One round of a trial that is over. score: None where it came to no number. took: whose weights it began with,
    where these were another trial's."""

    round: int
    step: int
    score: float | None
    settings: Settings
    took: str | None = None


@dataclass(frozen=True)
class Row:
    """A trial. id: names its files. settings: of now, `first` what it began with. state: `stopped` where the search
    ended it. score: the last. seconds: of work, tokens: learned from, and steps so far. began, ended: Unix time.
    artifact: of the metric's stage, once it is there. progress: files of its stages' steps. took: whose
    weights it has taken over, for the round under way."""

    id: str
    settings: Settings
    first: Settings
    state: State = "running"
    score: float | None = None
    error: str = ""
    seconds: float = 0.0
    tokens: int = 0
    steps: int = 0
    began: float = 0.0
    ended: float | None = None
    past: tuple[Past, ...] = ()
    artifact: str | None = None
    progress: tuple[str, ...] = ()
    took: str | None = None

    @property
    def is_over(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.state != "running"


def so_far(row: Row) -> Row:
    """With the steps and tokens of now, where it is under way."""
    if row.is_over:
        return row
    steps = [step for file in row.progress for step in curve(Path(file))]
    return replace(row, steps=len(steps), tokens=sum(step.tokens for step in steps))


@dataclass(frozen=True)
class Ledger:
    """The trials of the sweep in a folder."""

    out: Path

    @property
    def folder(self) -> Path:
        """Where the rows lie."""
        return self.out / FOLDER

    def write(self, row: Row) -> None:
        """Whole, or as it was."""
        replace_text(self.folder / f"{row.id}.json", json.dumps(asdict(row), indent=1) + "\n")

    def read(self, name: str) -> Row | None:
        """The trial of that id, if it was begun."""
        try:
            told = json.loads((self.folder / f"{name}.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        told["past"] = tuple(Past(**one) for one in told["past"])
        told["progress"] = tuple(told["progress"])
        return Row(**told)

    def rows(self) -> list[Row]:
        """In the order in which they were begun."""
        names = [file.stem for file in self.folder.glob("[!.]*.json") if file.name != _SWEEP]
        found = [row for row in map(self.read, names) if row is not None]
        return sorted(found, key=lambda row: (row.began, row.id))

    def open(self, recipe: Recipe) -> float:
        """Makes the folder that of this sweep, and gives the seconds that were spent on it before. Raises UserError
        where it is another's: one of another recipe, or of other trials."""
        assert recipe.sweep is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        told = {"recipe": recipe.digest(), "sweep": searched(recipe), "seconds": 0.0}
        try:
            before = json.loads((self.folder / _SWEEP).read_text(encoding="utf-8"))
        except FileNotFoundError:
            replace_text(self.folder / _SWEEP, json.dumps(told, indent=1) + "\n")
            return 0.0
        for what in ("recipe", "sweep"):
            if before[what] != told[what]:
                raise UserError(
                    f"{self.out} holds another sweep: the {what} was another one",
                    **recipe.where("sweep"),
                    expected="the same command, or one with more trials, another budget or `concurrent`",
                    fix="name another folder with --out",
                )
        return float(before["seconds"])

    def spent(self, seconds: float) -> None:
        """Writes down how long the sweep has taken in all."""
        file = self.folder / _SWEEP
        told = json.loads(file.read_text(encoding="utf-8"))
        replace_text(file, json.dumps(told | {"seconds": seconds}, indent=1) + "\n")


def searched(recipe: Recipe) -> Any:
    """The sweep's keys but those that only tell how far and how wide it goes."""
    assert recipe.sweep is not None
    how_far = {"budget", "concurrent", "gpus_per_trial"}
    if recipe.sweep.search != "pbt":  # whose trials are compared with one another from the first round on
        how_far.add("trials")
    return recipe.sweep.model_dump(mode="json", by_alias=True, exclude=how_far)
