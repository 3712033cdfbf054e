"""`fettle submit`, `logs`, `stop`: the line that the cluster runs, and what is refused before anything travels."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from fettle.cli.main import app
from fettle.errors import FettleError, UserError
from fettle.pipeline import job_server
from fettle.pipeline.job_server import JobStatus

RECIPE = "name: northline\nstages: [{name: task, kind: sft, data: x.jsonl}]\n"


class Server:
    """Stands where Ray's job server would be: takes a job, or does not, and says how it ended."""

    def __init__(self) -> None:
        self.failure: BaseException | None = None
        self.ends, self.code, self.message = "SUCCEEDED", 0, ""
        self.job: dict[str, Any] = {}
        self.jobs: list[Any] = []
        self.stopped: list[str] = []
        self.breaks = 0

    def get_address(self) -> str:
        return "http://head:8265"

    def submit_job(self, **job: Any) -> str:
        if self.failure:
            raise self.failure
        self.job = job
        if package := job["runtime_env"].get("working_dir"):
            with zipfile.ZipFile(package) as packed:
                self.files = packed.namelist()
        return "job-1"

    async def tail_job_logs(self, job: str):  # type: ignore[no-untyped-def]
        yield "what the "
        if self.breaks:
            self.breaks -= 1
            raise RuntimeError("WebSocket connection closed unexpectedly")
        yield "job prints\n"

    def get_job_status(self, job: str) -> JobStatus:
        return JobStatus[self.ends]

    def get_job_info(self, job: str) -> Any:
        return SimpleNamespace(status=JobStatus[self.ends], driver_exit_code=self.code, message=self.message)

    def get_job_logs(self, job: str) -> str:
        return f"log of {job}\n"

    def list_jobs(self) -> list[Any]:
        return self.jobs

    def stop_job(self, job: str) -> bool:
        self.stopped.append(job)
        self.ends = "STOPPED"
        return True

    @property
    def words(self) -> list[str]:
        """The words of the line it runs."""
        return shlex.split(self.job["entrypoint"])


def a_job(id_: str, run: str, status: str, start: int = 0) -> Any:
    told = {"run": run, "out": f"/shared/runs/{run}"}
    return SimpleNamespace(submission_id=id_, metadata=told, status=JobStatus[status], start_time=start)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    found = Server()
    monkeypatch.setattr(job_server, "connect", lambda address: found)
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is no clone of fettle, which we are in, with a recipe and its data."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "a b.yaml").write_text(RECIPE)
    (tmp_path / "recipes" / "x.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    return done.exit_code, done.output


def test_the_cluster_runs_the_same_words_with_the_files_they_name(folder, server):
    words = ("--set", "seed=1", "--set", "stages.task.data=[x.jsonl]", "--until", "task", "--out", "/shared/runs/mine")
    code, printed = call("submit", "recipes/a b.yaml", *words)

    assert server.words == ["python", "-m", "fettle.cli.job", "--retries", "3", "run", "recipes/a b.yaml", *words]
    assert server.files == ["recipes/a b.yaml", "recipes/x.jsonl"]
    assert code == 0
    assert printed.splitlines() == [
        "submitted job-1 to http://head:8265",
        "results   /shared/runs/mine over there",
        "what the job prints",
        "job job-1 succeeded",
    ]


def test_results_lie_in_the_home_folder_over_there_unless_told(folder, server):
    call("submit", "recipes/a b.yaml", "--set", "name=southline", "--retries", 0)
    assert server.words[4:] == [
        *("0", "run", "recipes/a b.yaml", "--set", "name=southline"),
        "--out",
        "~/fettle/runs/southline",
    ]


def test_a_relative_out_folder_is_relative_to_here_not_to_the_jobs_copy(folder, server):
    call("submit", "recipes/a b.yaml", "--out=mine")
    assert server.words[-2:] == ["--out", str(folder / "mine")]


def test_a_recipe_elsewhere_is_run_from_the_same_place_within_the_package(folder, server, monkeypatch):
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    call("submit", folder / "recipes" / "a b.yaml")

    assert server.words[:5] == ["cd", "here", "&&", "exec", "python"]
    assert "../recipes/a b.yaml" in server.words
    assert server.files == ["here/", "recipes/a b.yaml", "recipes/x.jsonl"]


def test_an_evaluation_and_answers_are_jobs_too(folder, server):
    call("submit", "--job", "eval", "tiny", "--data", "recipes/x.jsonl", "--metrics", "loss")
    assert server.words[5:] == [
        *("eval", "tiny", "--data", "recipes/x.jsonl", "--metrics", "loss"),
        "--out",
        "~/fettle/evals/tiny.json",
    ]
    assert server.files == ["recipes/x.jsonl"]

    call("submit", "--job", "generate", "tiny", "recipes/x.jsonl", "--engines", "2")
    assert server.words[5:] == [
        *("generate", "tiny", "recipes/x.jsonl", "--engines", "2"),
        "--out",
        "~/fettle/answers/x.jsonl",
    ]


def test_what_a_function_reads_travels_by_with(folder, server):
    (folder / "lists").mkdir()
    (folder / "lists" / "bad.txt").write_text("x")
    call("submit", "recipes/a b.yaml", "--with", "lists")
    assert "lists/bad.txt" in server.files

    with pytest.raises(UserError, match="--with: no file or folder nowhere"):
        call("submit", "recipes/a b.yaml", "--with", "nowhere")


def test_without_waiting_it_says_how_to_follow_and_to_end_it(folder, server):
    _, printed = call("submit", "recipes/a b.yaml", "--no-wait", "--address", "http://head:8265")
    assert printed.splitlines()[2:] == [
        "its log   fettle logs job-1 --address http://head:8265",
        "end it    fettle stop job-1 --address http://head:8265",
    ]


def test_a_driver_has_time_for_a_checkpoint_and_the_job_carries_no_other_settings(folder, server):
    call("submit", "recipes/a b.yaml")
    assert server.job["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "180"}
    assert server.job["metadata"] == {"verb": "run", "run": "northline", "out": "~/fettle/runs/northline"}


@pytest.mark.parametrize("word", ["tracking=http://me:hunter22@host", "name=s3cr3t-s3cr3t"])
def test_a_word_with_a_secret_is_refused(folder, server, monkeypatch, word):
    monkeypatch.setenv("HF_TOKEN", "s3cr3t-s3cr3t")
    with pytest.raises(UserError) as caught:
        call("submit", "recipes/a b.yaml", "--set", word)
    assert "s3cr3t-s3cr3t" not in str(caught.value) and "hunter22" not in caught.value.got.partition("a password")[0]
    assert server.job == {}


@pytest.mark.parametrize(("code", "ours"), [(1, 1), (2, 2), (3, 3), (137, 1)])
def test_submit_exits_as_the_job_does(folder, server, code, ours):
    server.ends, server.code = "FAILED", code
    assert call("submit", "recipes/a b.yaml")[0] == ours


def test_a_job_that_was_stopped_is_no_success(folder, server):
    server.ends = "STOPPED"
    assert call("submit", "recipes/a b.yaml")[0] == 130


@pytest.mark.parametrize(("code", "message"), [(127, ""), (1, "x\n/usr/bin/python: No module named fettle\n")])
def test_a_cluster_without_fettle_is_told_as_that(folder, server, code, message):
    server.ends, server.code, server.message = "FAILED", code, message
    with pytest.raises(FettleError, match="the cluster's `python` is none that has fettle\n  fix: start Ray"):
        call("submit", "recipes/a b.yaml")


def test_a_line_that_breaks_goes_on_without_telling_anything_twice(folder, server, monkeypatch):
    server.breaks = 2
    assert "what the job prints\n" in call("submit", "recipes/a b.yaml")[1]


def test_a_slip_in_the_words_is_told_before_anything_travels(folder, server):
    assert call("submit", "recipes/a b.yaml", "--untill", "task")[0] == 2
    assert call("submit", "recipes/a b.yaml", "--out")[0] == 2
    with pytest.raises(UserError, match="unknown key"):
        call("submit", "recipes/a b.yaml", "--set", "sede=1")
    with pytest.raises(UserError, match=r"no job 'evl' \(did you mean 'eval'\?\)"):
        call("submit", "--job", "evl", "tiny")
    assert server.job == {}


def test_a_run_is_stopped_by_its_name_its_folder_or_its_jobs_id(server):
    for name in ("b-2", "b", "/shared/runs/b"):
        server.ends, server.jobs = "RUNNING", [a_job("a-1", "a", "RUNNING"), a_job("b-2", "b", "RUNNING")]
        assert "job b-2 is stopped" in call("stop", name)[1]
    assert server.stopped == ["b-2"] * 3


def test_of_several_live_jobs_one_has_to_be_named(server):
    server.jobs = [a_job("b-1", "b", "RUNNING"), a_job("b-2", "b", "PENDING")]
    with pytest.raises(UserError, match="2 jobs of 'b' are running") as caught:
        call("stop", "b")
    assert caught.value.fix == "name one of b-1, b-2"


def test_a_job_that_has_ended_is_not_stopped_and_an_unknown_one_is_told(server):
    server.jobs = [a_job("b-1", "b", "FAILED")]
    assert call("stop", "b") == (0, "job b-1 has ended already (failed)\n")
    with pytest.raises(UserError, match="no job or run 'c' at http://head:8265\n  expected: no job is running there"):
        call("stop", "c")


def test_logs_are_those_of_the_newest_job_of_a_run(server):
    server.jobs = [a_job("b-1", "b", "FAILED", start=1), a_job("b-2", "b", "SUCCEEDED", start=2)]
    assert call("logs", "b", "--no-follow") == (0, "log of b-2\n")
    assert call("logs", "b") == (0, "what the job prints\njob b-2 succeeded\n")
