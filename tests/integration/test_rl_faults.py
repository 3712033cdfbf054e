"""`kind: rl` where parts of it die, hang or lie: the run goes on as if nothing had been, or says what is wrong."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import save_file

from fettle.cluster import ray_session
from fettle.data.record import Message, Prompt, Record
from fettle.errors import FettleError
from fettle.models.base import BUNDLED, load_tokenizer
from fettle.models.heads import load_headed
from fettle.recipe.cluster import ClusterSpec
from fettle.rl.collect import rollouts_file
from fettle.rl.engines import Version
from fettle.rl.job import RlJob
from fettle.rl.rewards.actor import ActorScorer
from fettle.rl.rollout import Rollout
from fettle.rl.rollouts import RolloutPool
from fettle.rl.stage import rl
from fettle.train.group import run_group
from gloo import again, fence_of, train_alone
from rl_jobs import MakeJob, Service, drawn, make_rl_jobs, rows_of, timeless
from standing_engines import standing_engines

pytest.importorskip("vllm")
pytestmark = pytest.mark.timeout(600)
ITERATIONS, PROMPTS, SAMPLES = 5, 4, 8
# The driver in a process of its own; the job is pickled in a file.
DRIVER = """
import pickle, sys
from fettle.cluster import ray_session
from gloo import train_alone
with ray_session(num_cpus=2):
    train_alone(pickle.loads(open(sys.argv[1], "rb").read()))
"""


@pytest.fixture(scope="module")
def make_job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MakeJob]:
    """`make_job(name, …)`, in a cluster of their own, whose engines stay."""
    with ray_session(num_cpus=2), standing_engines():
        yield make_rl_jobs(root, tmp_path_factory.mktemp("rl"))


@pytest.fixture(scope="module")
def undisturbed(make_job: MakeJob) -> RlJob:
    rollout = {"prompts": PROMPTS, "samples_per_prompt": SAMPLES, "max_new_tokens": 32}
    return train_alone(make_job("undisturbed", iterations=ITERATIONS, rollout=rollout, checkpoint={"every": 1}))


def at(doing: str) -> list[psutil.Process]:
    """Processes below this one whose name, which Ray makes of an actor's class and method, begins so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found += [process] if process.cmdline()[:1] and process.cmdline()[0].startswith(doing) else []
        except psutil.NoSuchProcess:
            continue
    return found


@contextmanager
def killed(doing: str, *, once_there: Path | None = None, times: int) -> Iterator[list[int]]:
    """Meanwhile the first `times` processes that are seen `doing` are killed, once a file is there; yields them."""
    gone: list[int] = []
    is_over = threading.Event()

    def kill() -> None:
        while len(gone) < times and not is_over.wait(0.005):
            if once_there is not None and not once_there.exists():
                continue
            for process in at(doing):
                if process.pid not in gone:
                    process.kill()
                    gone.append(process.pid)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield gone
    finally:
        is_over.set()
        thread.join()


def checkpoint(job: RlJob) -> Path:
    """The mark of its first one."""
    return job.folder / "checkpoints" / "step-00000001" / "complete.json"


def test_an_engine_killed_while_it_generates_is_replaced_and_no_rollout_is_lost_or_doubled(undisturbed: RlJob) -> None:
    job = again(undisturbed, "engine-killed")

    with killed("ray::EngineActor.answer", once_there=job.folder / "rollouts" / "00000001.npz", times=1) as gone:
        train_alone(job)

    wanted = [(prompt, sample) for prompt in range(PROMPTS) for sample in range(SAMPLES)]
    assert len(gone) == 1
    assert [drawn(job, iteration) for iteration in range(ITERATIONS)] == [wanted] * ITERATIONS
    assert timeless(job) == timeless(undisturbed)


def test_a_killed_driver_goes_on_to_the_rows_of_a_run_without_a_break(undisturbed: RlJob, tmp_path: Path) -> None:
    job = again(undisturbed, "driver-killed")
    (tmp_path / "job").write_bytes(pickle.dumps(job))
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "job")]
    with open(tmp_path / "log", "wb") as log:
        driver = subprocess.Popen(
            command, cwd=Path(__file__).parent, start_new_session=True, stdout=log, stderr=subprocess.STDOUT
        )
    while not checkpoint(job).exists():
        assert driver.poll() is None, (tmp_path / "log").read_text()
    below = psutil.Process(driver.pid).children(recursive=True)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    assert not job.artifact.exists()
    assert psutil.wait_procs(below, timeout=60)[1] == []

    train_alone(job)

    assert timeless(job) == timeless(undisturbed)


def test_a_killed_learner_is_started_again_and_goes_on_to_the_same_rows(undisturbed: RlJob) -> None:
    job = again(undisturbed, "learner-killed")
    fence = fence_of(job)

    with killed("ray::RayTrainWorker", once_there=checkpoint(job), times=1) as gone:
        folder = job.folder.with_name("group")
        run_group([(job, rl)], ClusterSpec(), fence=fence, out=folder, logs=folder / "logs")

    assert len(gone) == 1
    assert timeless(job) == timeless(undisturbed)


@pytest.fixture(scope="module")
def scorer(make_job: MakeJob, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ActorScorer]:
    """The bundled model with a head of one row, in an actor."""
    folder = tmp_path_factory.mktemp("taste")
    model = load_headed(BUNDLED["tiny"], 1, torch.float32, seed=3)
    model.config.get_text_config().pad_token_id = load_tokenizer(BUNDLED["tiny"]).pad_token_id
    model.save_pretrained(folder)
    load_tokenizer(BUNDLED["tiny"]).save_pretrained(folder)
    found = ActorScorer(folder, "taste", logs=folder)
    yield found
    found.close()


def asked(texts: list[str]) -> tuple[list[Rollout], list[Record]]:
    """Answers to one question."""
    record = Record(Path("p.jsonl"), 1, prompt=Prompt((Message("user", "Why?"),), ("Why?",)))
    ids = np.arange(3, dtype=np.int32)
    rest: Any = {"logprobs": np.zeros(3, np.float32), "mask": np.ones(3, bool), "version": 0, "finish": "stop"}
    return [Rollout(0, number, ids, ids, text=text, **rest) for number, text in enumerate(texts)], [record]


def test_a_reward_model_that_is_killed_scores_again_as_before(scorer: ActorScorer) -> None:
    before = scorer.score(*asked(["Because.", "Paris."]))
    process = scorer.process

    os.kill(process, signal.SIGKILL)

    assert scorer.score(*asked(["Because.", "Paris."])) == before
    assert scorer.process != process


def test_a_reward_model_that_is_killed_three_times_ends_the_run(scorer: ActorScorer) -> None:
    process = psutil.Process(scorer.process)
    with (
        killed("ray::RewardActor", times=3) as gone,
        pytest.raises(FettleError, match=r"the reward model taste died 3 times .*reward-taste.log"),
    ):
        process.wait()  # a score is quicker than a kill; later ones have to start first
        scorer.score(*asked(["Because."]))

    assert len(gone) == 3


def test_a_reward_service_that_is_down_ends_the_run_which_goes_on_once_it_is_back(make_job: MakeJob) -> None:
    with Service() as service:
        rewards = ({"url": service.url, "tries": 2},)
        job = make_job("service", rewards=rewards, iterations=4, checkpoint={"every": 1})
        service.statuses = [200, 200, 200]  # held-out prompts, iterations 0 and 1; then it is down
        with pytest.raises(FettleError, match=rf"the reward service {service.url} failed 2 times; at last: 500"):
            train_alone(job)
        made = [rollouts_file(job, iteration).stat().st_mtime_ns for iteration in (0, 1)]
        service.statuses = [500, *[200] * 9]  # it is back at the second try

        train_alone(job)

        assert [row.iteration for row in rows_of(job)] == [0, 1, 2, 3]
        assert [rollouts_file(job, iteration).stat().st_mtime_ns for iteration in (0, 1)] == made
        assert service.statuses == [200] * 6  # one was refused; then iterations 2 and 3, and the held-out prompts


def test_a_sync_that_never_returns_ends_the_run_in_time(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[int] = []
    sync = RolloutPool.sync

    def stop_and_sync(self: RolloutPool, version: Version) -> float:
        if version.number == 1:
            self._sync_timeout_s = 2.0  # of the recipe, where a busy machine gets more
            os.kill(self.processes[0], signal.SIGSTOP)
            stopped.append(self.processes[0])
        return sync(self, version)

    monkeypatch.setattr(RolloutPool, "sync", stop_and_sync)
    with pytest.raises(FettleError, match="engine 0 did not take version 1 of the policy within 2 s"):
        train_alone(make_job("never-returns"))
    os.kill(stopped[0], signal.SIGKILL)


def test_a_version_whose_checksum_does_not_fit_is_refused(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fettle.rl.sync.checksum_of", lambda file: 0xBAD)

    said = "engine 0 did not take version 0 of the policy: .* has the checksum .*, and was written with 00000bad"
    with pytest.raises(FettleError, match=said):
        train_alone(make_job("checksum"))


def test_weights_that_are_not_the_learners_are_told(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    def save_others(state: dict[str, torch.Tensor], file: Path) -> None:
        save_file({name: weight * 1.02 for name, weight in state.items()}, file)

    monkeypatch.setattr("fettle.rl.sync.save_file", save_others)

    with pytest.raises(FettleError, match="engine 0 took version 0 .* it does not answer by these weights"):
        train_alone(make_job("others"))


def test_a_gap_beyond_its_bound_ends_the_run_with_its_row(make_job: MakeJob) -> None:
    job = make_job("gap", gap={"warn": 1e-12, "stop": 1e-12})

    with pytest.raises(FettleError, match=r"iteration 0: .* differ by .* nats a token .* gap.stop is 1e-12"):
        train_alone(job)

    assert [row.iteration for row in rows_of(job)] == [0]
