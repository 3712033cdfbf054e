"""A Ray cluster's job server: a job handed in, followed, found again, stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import aiohttp
import requests
from ray.dashboard.modules import dashboard_sdk
from ray.dashboard.modules.job import sdk
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

from fettle.errors import FettleError, UserError

DEFAULT = "http://127.0.0.1:8265"
_ANSWER_TIMEOUT_S = 5
_AGENT_TIMEOUT_S = 60
_LOST_TRIES = 5
# A driver makes a checkpoint when it is stopped, and sends it where `storage` is; Ray itself would wait for 3 s.
_STOP_S = 180
_DIED = 1
_INTERRUPTED = 130
_EXIT_CODES = (1, 2, 3, 130)


def connect(address: str | None) -> JobSubmissionClient:
    """A client of the job server at an address, by default the one RAY_API_SERVER_ADDRESS names, or this machine's.

    Raises UserError within seconds where none answers, or it wants a token that we do not have.
    """
    server = address or os.environ.get("RAY_API_SERVER_ADDRESS") or DEFAULT
    server = server if "://" in server else f"http://{server}"
    logging.getLogger("ray").setLevel(logging.ERROR)
    for told in (dashboard_sdk, sdk):  # of what they upload, and of what they need not
        told.logger.setLevel(logging.ERROR)
    try:  # Ray's own client would wait for ever
        requests.get(f"{server}/api/version", timeout=_ANSWER_TIMEOUT_S)
        return JobSubmissionClient(server)
    except AuthenticationError:
        raise _no_token(server) from None
    except (requests.RequestException, ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray job server answers at {server} ({_short(error)})",
            field="--address",
            expected="the address of a cluster's dashboard, such as http://127.0.0.1:8265",
            fix="start a cluster with `ray start --head`, or name its dashboard's address (not port 6379)",
        ) from None


def address_of(client: JobSubmissionClient) -> str:
    """The server's address, as one types it."""
    return str(client.get_address())


def submit(client: JobSubmissionClient, entrypoint: str, package: Path | None, told: Mapping[str, str]) -> str:
    """The id of a job that runs the shell line `entrypoint` in the unpacked `package`. told: its metadata, which all
    who have the token can read; `run` names the job.

    Raises UserError where the server does not take it.
    """
    env = {"RAY_JOB_STOP_WAIT_TIME_S": str(_STOP_S)}
    wanted = {"env_vars": env} | ({"working_dir": str(package)} if package is not None else {})
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", told["run"])[:64]
    until = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            return client.submit_job(
                entrypoint=entrypoint,
                runtime_env=wanted,
                metadata=dict(told),
                submission_id=f"{name}-{uuid.uuid4().hex[:6]}",
            )
        except AuthenticationError:
            raise _no_token(address_of(client)) from None
        except (RuntimeError, requests.RequestException) as error:
            # A cluster just started has a server seconds before it has an agent that takes jobs.
            if "No available agent" in str(error) and time.monotonic() < until:
                time.sleep(1)
                continue
            got = f"the job server at {address_of(client)} did not take the job ({_short(error)})"
            raise UserError(got, field="--address", fix="see the dashboard there, or /tmp/ray on its head") from error


def follow(client: JobSubmissionClient, job: str, say: Callable[[str], None]) -> int:
    """Prints a job's log until it ends; its exit code: that of its driver, 130 where it was stopped.

    Raises FettleError where the server is lost, or the job could not begin.
    """
    asyncio.run(_tail(client, job))
    info = client.get_job_info(job)
    status, code, message = info.status, info.driver_exit_code, (info.message or "").strip()
    if status == JobStatus.SUCCEEDED:
        say(f"job {job} succeeded")
        return 0
    if status == JobStatus.STOPPED:
        say(f"job {job} was stopped")
        return _INTERRUPTED
    if code == 127 or re.search(r"No module named '?fettle|python: (command )?not found", message):
        raise FettleError(
            f"job {job}: the cluster's `python` is none that has fettle\n"
            "  fix: start Ray on every node with fettle's environment active (PATH=.venv/bin:$PATH ray start …)"
        )
    if code is None:  # Ray's own word: it did not begin, or what watched it died
        raise FettleError(f"job {job} failed: {message.partition(chr(10))[0]}")
    say(f"job {job} failed (exit code {code})")
    return code if code in _EXIT_CODES else _DIED


def find(client: JobSubmissionClient, name: str, *, only_live: bool) -> JobDetails:
    """The job of that id, or the newest of the run that is so called or has that folder.

    Raises UserError where there is none, and where several of a run are live.
    """
    jobs = [job for job in client.list_jobs() if job.submission_id is not None]
    for job in jobs:
        if job.submission_id == name:
            return job
    places = {name, name.rstrip("/"), os.path.abspath(name)}
    ours = [job for job in jobs if places & {(job.metadata or {}).get(key) for key in ("run", "out")}]
    live = [job for job in ours if not job.status.is_terminal()]
    if only_live and len(live) > 1:
        told = ", ".join(str(job.submission_id) for job in live)
        raise UserError(f"{len(live)} jobs of '{name}' are running", expected="one job", fix=f"name one of {told}")
    found = max(live or ours, key=lambda job: job.start_time or 0, default=None)
    if found is None:
        known = sorted({str(job.submission_id) for job in jobs if not job.status.is_terminal()})
        running = f"running: {', '.join(known)}" if known else "no job is running there"
        raise UserError(f"no job or run '{name}' at {address_of(client)}", expected=running)
    return found


def stop(client: JobSubmissionClient, name: str, say: Callable[[str], None]) -> None:
    """Stops a job, or a run's, as SIGTERM does: its driver makes a checkpoint first. Waits until it has ended.

    Raises UserError where there is none, FettleError where it does not end.
    """
    found = find(client, name, only_live=True)
    job = str(found.submission_id)
    if found.status.is_terminal():
        say(f"job {job} has ended already ({found.status.value.lower()})")
        return
    client.stop_job(job)
    say(f"stopping {job}: what it does is kept first")
    until = time.monotonic() + _STOP_S + 30
    while not (status := client.get_job_status(job)).is_terminal():
        if time.monotonic() > until:
            raise FettleError(f"job {job} has not ended: {status.value.lower()}")
        time.sleep(0.5)
    if status == JobStatus.STOPPED:
        say(f"job {job} is stopped; submitted again with the same words, it goes on from there")
    else:
        say(f"job {job} ended before that ({status.value.lower()})")


async def _tail(client: JobSubmissionClient, job: str) -> None:
    """The log from its beginning; where the line breaks while the job goes on, from where it broke."""
    printed, tries = 0, 0
    while True:
        skipped = printed
        try:
            async for lines in client.tail_job_logs(job):
                new = lines[skipped:]
                skipped = max(0, skipped - len(lines))
                if new:
                    print(new, end="", flush=True)
                    printed, tries = printed + len(new), 0
            if client.get_job_status(job).is_terminal():
                return
        except (RuntimeError, OSError, aiohttp.ClientError, requests.RequestException) as error:
            tries += 1
            if tries > _LOST_TRIES:
                server = address_of(client)
                raise FettleError(
                    f"the job server at {server} is lost ({_short(error)}); the job may go on\n"
                    f"  fix: fettle logs {job} --address {server}"
                ) from error
        await asyncio.sleep(1)


def _no_token(server: str) -> UserError:
    return UserError(
        f"the Ray job server at {server} wants a token, and another than ours if we have one",
        field="--address",
        fix="put the cluster's token into ~/.ray/auth_token (mode 0600), or set RAY_AUTH_TOKEN",
    )


def _short(error: BaseException) -> str:
    if isinstance(error, requests.exceptions.Timeout):
        return f"no answer in {_ANSWER_TIMEOUT_S} s"
    if isinstance(error, requests.exceptions.ConnectionError):
        inner = re.search(r"\[Errno -?\d+\] ([^'\"()]+)", str(error))
        return inner[1].strip() if inner else "no connection"
    lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    is_traceback = any(line.startswith("Traceback") for line in lines) or "Traceback" in lines[0]
    return (lines[-1] if is_traceback else lines[0]).strip()[:200]
