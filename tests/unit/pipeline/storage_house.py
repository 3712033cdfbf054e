"""The small house with a bucket: runs of hand-made artifacts and checkpoints, on one machine and on another."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from s3_server import S3Server
from small_house import House

from fettle.pipeline.graph import PlannedStage, plan_stages
from fettle.pipeline.sender import Sender
from fettle.pipeline.storage import FOLDER, Storage
from fettle.pipeline.taking_up import RECORD, take_up
from fettle.recipe import Recipe
from fettle.recipe.storage import StorageSpec
from fettle.train.checkpoint import Checkpoints, Fence
from fettle.train.progress import ProgressWriter


@dataclass
class Machine:
    """A run's folder on one machine; the recipe and its data are on all of them."""

    house: House
    out: Path
    storage: dict[str, Any] | str
    token: str = field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def recipe(self) -> Recipe:
        return self.house.recipe(storage=self.storage)

    @property
    def stages(self) -> list[PlannedStage]:
        return plan_stages(self.recipe, self.out)

    def take_up(self, **overrides: Any) -> bool:
        """What a run does before anything else; whether there was anything to go on from."""
        self.out.mkdir(parents=True, exist_ok=True)
        recipe = self.house.recipe(**{"storage": self.storage, **overrides})
        return take_up(recipe, plan_stages(recipe, self.out), self.out, Fence(self.out / ".epoch", self.token))

    def sender(self) -> Sender:
        """What the run's process sends with."""
        told = json.loads((self.out / FOLDER / RECORD).read_text())
        folder = Path(told["folder"]) if told["folder"] else None
        return Sender(Storage(StorageSpec(**told["storage"]), folder, told["name"]), self.out, told["token"])

    def sent(self) -> Sender:
        """As a run that starts, and ends at once."""
        self.take_up()
        sender = self.sender()
        sender.send(is_over=True)
        return sender

    def checkpoint(self, step: int, stage: int = 0, keep: int = 2, content: str = "") -> Path:
        """A checkpoint of a stage, with the progress up to it and, beside it, a file that only it needs."""
        planned = self.stages[stage]
        (self.out / ".epoch").write_text(self.token)
        checkpoints = Checkpoints(
            planned.folder / "checkpoints", planned.fingerprint, keep, Fence(self.out / ".epoch", self.token)
        )
        told = {"steps": 100, "lr": 1e-3, "grad_norm": 1.0, "tokens": 8, "loss_tokens": 4}
        ProgressWriter(planned.folder / "progress.jsonl").write(step=step, loss=1 / step, **told)
        (planned.folder / "rollouts").mkdir(exist_ok=True)
        (planned.folder / "rollouts" / f"{step}.npz").write_bytes(b"rollouts of %d" % step)
        partial = checkpoints.partial(step, "once")
        partial.mkdir(parents=True)
        (partial / "weights").write_text(content or f"weights after {step}")
        (partial / "optimizer").write_bytes(step.to_bytes(4, "big") * 1000)
        checkpoints.commit(partial, step)
        return checkpoints.path(step)


@dataclass
class StorageHouse:
    """place: of the run, as `bucket/prefix/name`."""

    house: House
    server: S3Server
    bucket: str

    @property
    def storage(self) -> dict[str, str]:
        return {"uri": f"s3://{self.bucket}/line", "endpoint": self.server.endpoint}

    @property
    def place(self) -> str:
        return f"{self.bucket}/line/out"

    def machine(self, name: str) -> Machine:
        """One of that name, with nothing on it yet."""
        return Machine(self.house, self.house.folder / name / "out", self.storage)

    def names(self) -> set[str]:
        """Of all objects of the run."""
        return self.server.names(self.place)


def tree(folder: Path) -> dict[str, bytes]:
    """The content of every file but those whose names begin with a dot."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    paths = {file.relative_to(folder): file for file in files}
    return {
        path.as_posix(): file.read_bytes() for path, file in paths.items() if not any(p[0] == "." for p in path.parts)
    }
