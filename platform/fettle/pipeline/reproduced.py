"""Two runs of one recipe: what is known to differ before the second is begun, and whether they came to the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.artifact import MANIFEST, Artifact, code_version, digest_file, is_artifact, library_versions, read_artifact
from fettle.errors import UserError
from fettle.train.progress import curve

_DECIDES = ("precision", "instructions")


@dataclass(frozen=True)
class Difference:
    """what: it is of. was, now: in the run that is reproduced, and here. is_given: data, code of the user's, or a base:
    what a run is given, which has changed since."""

    what: str
    was: str
    now: str
    is_given: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.was or 'none'} → {self.now or 'none'}"


@dataclass(frozen=True)
class StageCompared:
    """weights: files of them that differ. others: other files that differ, but for the folders they name. largest: the
    largest difference of two losses of one step, in nats a token; apart: the first step at which they differ; both None
    where nothing was trained, or nothing differs. lost: whether the curves are not of the same steps."""

    name: str
    weights: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    largest: float | None = None
    apart: int | None = None
    lost: bool = False

    @property
    def is_same(self) -> bool:
        """Whether the weights are the same, bit for bit."""
        return not self.weights

    def is_within(self, nats: float | None) -> bool:
        """Whether the weights are the same, or (unless None) the losses at every step within so many nats."""
        return self.is_same or (nats is not None and self.largest is not None and self.largest <= nats)

    def __str__(self) -> str:
        if self.is_same:
            beside = f"; beside the weights {', '.join(self.others)} differs" if self.others else ""
            return f"the very same weights, bit for bit{beside}"
        if self.lost:
            return f"{', '.join(self.weights)} differs, and the losses are not of the same steps"
        if self.apart is None:
            return f"{', '.join(self.weights)} differs; the losses are the same at every step"
        return (
            f"{', '.join(self.weights)} differs; losses by {self.largest:.2g} nats at most, from step {self.apart} on"
        )


def differences(was: Mapping[str, Any], made: Artifact | None, now: Mapping[str, Any]) -> Iterator[Difference]:
    """What can be told before a stage is run again. was, now: as `tracking.told_of` tells of it, then and here. made:
    what came of it then."""
    sides = [{(one["use"], one["path"]): one["digest"] for one in side["data"]} for side in (was, now)]
    for use, path in dict.fromkeys([*sides[0], *sides[1]]):
        digests = [side.get((use, path), "") for side in sides]
        if digests[0] != digests[1]:
            yield Difference(f"{path} ({use})", digests[0][:12], digests[1][:12], is_given=True)
    # Of a stage that begins from an earlier one, that one tells what has changed.
    if was["from"] != now["from"] and any(side["from"].startswith("sha256:") for side in (was, now)):
        yield Difference(f"base {now['base']}", was["from"][:19], now["from"][:19], is_given=True)
    for key in _DECIDES:
        if was.get(key, now[key]) != now[key]:
            yield Difference(key, str(was[key]), str(now[key]))
    for key in dict.fromkeys([*was["params"], *now["params"]]):
        settings = [side["params"].get(key, "") for side in (was, now)]
        if settings[0] != settings[1]:
            yield Difference(f"stages.{now['name']}.{key}, by default", *settings)
    if made is None:
        return
    versions = library_versions()
    for name in dict.fromkeys([*made.versions, *versions]):
        if name in versions and made.versions.get(name, "") != versions[name]:
            yield Difference(name, made.versions.get(name, ""), versions[name])
    if made.code and made.code != code_version():
        yield Difference("code", made.code, code_version())


def compared(name: str, was: Mapping[str, Any], now: Mapping[str, Any]) -> StageCompared:
    """A stage that was run twice. was, now: as `tracking.told_of` tells of it. Raises UserError where a file of what
    came of it then has changed."""
    folders = [Path(side["artifact"]) for side in (was, now)]
    read_artifact(folders[0], verify=True)
    files = [_files(folder) for folder in folders]
    differing = [file for file in sorted({*files[0], *files[1]}) if files[0].get(file) != files[1].get(file)]
    weights = tuple(file for file in differing if file.endswith(".safetensors"))
    runs = [folder.parents[1] for folder in folders]
    others = tuple(
        file
        for file in differing
        if file not in weights and _text(folders[0] / file, runs) != _text(folders[1] / file, runs)
    )
    curves = [{row.step: row.loss for row in curve(Path(side["folder"]) / "progress.jsonl")} for side in (was, now)]
    apart = [step for step in curves[0] if curves[0][step] != curves[1].get(step)]
    lost = set(curves[0]) != set(curves[1])
    largest = max((abs(loss - curves[1][step]) for step, loss in curves[0].items()), default=None) if not lost else None
    return StageCompared(name, weights, others, largest, apart[0] if apart else None, lost)


def finished(was: Mapping[str, Any]) -> Artifact | None:
    """What came of a stage in the run that is reproduced; None where nothing did, or it is gone."""
    if not is_artifact(was["artifact"]):
        return None
    try:
        return read_artifact(was["artifact"])
    except UserError:  # of another version of fettle
        return None


def _files(folder: Path) -> dict[str, str]:
    return {
        file.relative_to(folder).as_posix(): digest_file(file)
        for file in folder.rglob("*")
        if file.is_file() and file.name != MANIFEST
    }


def _text(file: Path, runs: list[Path]) -> str | None:
    """A file's text without the runs' folders; None where there is none, or it is no text."""
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    for run in runs:
        text = text.replace(f"{run}/", "RUN/")
    return text
