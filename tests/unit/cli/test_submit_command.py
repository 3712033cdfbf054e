"""`fettle submit`: the line that the cluster runs, and what is refused before anything travels."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from fettle.cli.submit import submit_command
from fettle.errors import FettleError, UserError
from fettle.pipeline import submit

app = typer.Typer()
app.command()(submit_command)
RECIPE = "name: northline\nstages: [{name: task, kind: sft, data: x.jsonl}]\n"


class Server:
    """Stands where Ray's job server would be: takes a job, or does not, and says how it ended."""

    def __init__(
        self, failure: BaseException | None = None, ends: str = "SUCCEEDED", message: str | None = None
    ) -> None:
        self.failure, self.ends, self.message = failure, ends, message
        self.job: dict[str, Any] = {}

    def __call__(self, address: str) -> Server:
        self.address = address
        return self

    def submit_job(self, **job: Any) -> str:
        if self.failure:
            raise self.failure
        self.job = job
        return "job-1"

    async def tail_job_logs(self, job: str):  # type: ignore[no-untyped-def]
        yield "what the job prints\n"

    def get_job_status(self, job: str) -> submit.JobStatus:
        return submit.JobStatus[self.ends]

    def get_job_info(self, job: str) -> Server:
        return self

    @property
    def words(self) -> list[str]:
        """The words of the line it runs."""
        return shlex.split(self.job["entrypoint"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(submit, "JobSubmissionClient", found)
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to submit, which we are in, with a recipe and the job's program."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a b.yaml").write_text(RECIPE)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "pipeline.py").write_text("")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: object) -> str:
    return CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False).output


def test_the_cluster_runs_the_same_recipe_with_the_same_settings(folder, server):
    printed = call("recipes/a b.yaml", "--set", "seed=1", "--set", "stages.task.data=[a, b]", "--until", "task")
    assert server.words == [
        *("python", "jobs/pipeline.py", "recipes/a b.yaml", "--out", str(folder / "runs" / "northline")),
        *("--set", "seed=1", "--set", "stages.task.data=[a, b]", "--until", "task"),
    ]
    assert server.job["runtime_env"]["working_dir"] == str(folder)
    assert printed == "submitted job-1 to http://127.0.0.1:8265\nwhat the job prints\njob job-1 succeeded\n"


def test_the_default_folder_is_the_one_that_run_would_take(folder, server):
    call("recipes/a b.yaml", "--set", "name=southline")
    assert server.words[4] == str(folder / "runs" / "southline")


def test_a_relative_out_folder_is_relative_to_here_not_to_the_jobs_copy(folder, server):
    call("recipes/a b.yaml", "--out", "mine")
    assert server.words[4] == str(folder / "mine")


def test_without_waiting_it_says_how_to_read_the_log(folder, server):
    assert call("recipes/a b.yaml", "--no-wait", "--address", "http://head:8265") == (
        "submitted job-1 to http://head:8265\nits log: ray job logs --address http://head:8265 job-1\n"
    )


def test_the_server_is_the_one_rays_own_variable_names(folder, server, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://elsewhere:8265")
    call("recipes/a b.yaml")
    assert server.address == "http://elsewhere:8265"


@pytest.mark.parametrize("message", ["out of memory\nand more", " ", None])
def test_a_job_that_fails_is_an_error_with_its_first_line(folder, server, message):
    server.ends, server.message = "FAILED", message
    with pytest.raises(FettleError, match="^job job-1 failed: (out of memory)?$"):
        call("recipes/a b.yaml")


def test_a_server_that_does_not_answer_is_a_users_mistake(folder, server):
    server.failure = ConnectionError("refused\nby it")
    with pytest.raises(UserError, match=r"--address: no Ray job server answers at http://127.0.0.1:8265 \(refused\)"):
        call("recipes/a b.yaml")


def test_a_folder_too_large_for_ray_is_told_as_that(folder, server):
    told = "ValueError: Package size (600.00MiB) exceeds the maximum size of 512.00MiB. To exclude large files, add …"
    server.failure = RuntimeError(f"Request failed with status code 500: Traceback (most recent call last):\n{told}\n")
    with pytest.raises(UserError, match=r"^.*: Ray does not carry a folder as large as this .*\(600\.00MiB\)"):
        call("recipes/a b.yaml")


def test_a_server_that_wants_a_token_says_where_it_belongs(folder, server):
    server.failure = submit.AuthenticationError("401")
    with pytest.raises(UserError, match=r"wants a token\n  fix: put the cluster's token into ~/.ray/auth_token"):
        call("recipes/a b.yaml")


def test_a_mistake_in_the_recipe_is_told_before_anything_travels(folder, server):
    with pytest.raises(UserError, match="unknown key"):
        call("recipes/a b.yaml", "--set", "sede=1")
    assert server.job == {}


def test_a_recipe_outside_the_folder_is_refused(folder, server):
    with pytest.raises(UserError, match=r"does not lie below .*jobs"):
        call("recipes/a b.yaml", "--working-dir", "jobs")


def test_a_folder_without_the_jobs_program_is_refused(folder, server):
    (folder / "jobs" / "pipeline.py").unlink()
    with pytest.raises(UserError, match=r"there is no jobs/pipeline\.py below"):
        call("recipes/a b.yaml")
    assert server.job == {}


@pytest.mark.parametrize("extra", ["", "\n    heldout: {data: ok.jsonl}\n    replay: {data: ok.jsonl, fraction: 0.1}"])
def test_data_that_would_not_travel_is_refused_at_its_line(folder, server, extra):
    recipe = folder / "recipes" / "c.yaml"
    recipe.write_text("name: n\nstages:\n  - name: task\n    kind: sft\n    data: [ok.jsonl, ../../far.jsonl]" + extra)
    with pytest.raises(UserError, match=r"c\.yaml:5: stages\.task\.data: \.\./\.\./far\.jsonl does not lie below"):
        call("recipes/c.yaml")
    assert server.job == {}


@pytest.mark.parametrize("path", ["/mnt/shared/a.jsonl", "s3://bucket/a.jsonl", "owner/name", "lf/dataset_info.json#a"])
def test_data_that_the_cluster_may_have_is_left_to_it(folder, server, path):
    call("recipes/a b.yaml", "--set", f"stages.task.data={path}")
    assert server.job
