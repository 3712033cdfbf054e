"""The stage on a worker: rank 0 makes what the command makes, the others make nothing."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from fettle.artifact import read_artifact
from fettle.cli.main import app
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.pipeline.prepare import end_ids
from fettle.recipe.cluster import ClusterSpec
from fettle.recipe.quantize import QuantizeStage
from fettle.train.checkpoint import Fence
from fettle.train.job import GroupMember, QuantizeJob
from fettle.train.stages.quantize import quantize


def member(folder: Path, rank: int) -> GroupMember:
    (folder / "epoch").write_text("test")
    return GroupMember(rank, 2, ClusterSpec(workers=2, zero=0), Fence(folder / "epoch", "test"))


def test_rank_0_makes_what_the_command_makes(tmp_path: Path) -> None:
    job = QuantizeJob(
        name="small",
        fingerprint="f",
        spec=QuantizeStage.model_validate({"name": "small", "kind": "quantize", "bits": 4, "group": 64}),
        seed=0,
        base=BUNDLED["tiny"],
        folder=tmp_path / "stage",
        artifact=tmp_path / "artifact",
        recipe="sha256:r",
        end_ids=end_ids(load_tokenizer(BUNDLED["tiny"])),
        adapter=None,
    )

    quantize(job, member(tmp_path, 1))
    assert not job.artifact.exists()
    quantize(job, member(tmp_path, 0))

    out = tmp_path / "by-hand"
    told = CliRunner().invoke(app, ["quantize", "tiny", "--bits", "4", "--group", "64", "--out", str(out)])
    assert told.exit_code == 0
    made = read_artifact(job.artifact, verify=True)
    assert (made.digest, made.recipe) == (read_artifact(out).digest, "sha256:r")
