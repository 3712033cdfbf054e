"""A recipe as a job of a Ray cluster's job server."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable
from pathlib import Path

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from fettle.errors import FettleError, UserError

_AGENT_TIMEOUT_S = 60
# Of the submitted folder; .gitignore is honoured too.
_NOT_SUBMITTED = [".git", ".venv", "runs", "**/__pycache__"]


def submit_job(server: str, entrypoint: str, folder: Path, *, follow: bool, say: Callable[[str], None]) -> None:
    """Runs the shell line `entrypoint` in a copy of `folder` on the cluster of a job server, following its log.

    Raises UserError if no server answers, FettleError if the job does not succeed.
    """
    logging.getLogger("ray").setLevel(logging.ERROR)  # it tells every file that it packs or does not
    try:
        client = JobSubmissionClient(server)
        job = _submit(client, entrypoint, folder)
    except AuthenticationError:
        raise UserError(
            f"the Ray job server at {server} wants a token",
            field="--address",
            fix="put the cluster's token into ~/.ray/auth_token, or set RAY_AUTH_TOKEN",
        ) from None
    except (ConnectionError, RuntimeError) as error:
        if size := re.search(r"Package size \((.+?)\) exceeds the maximum size of (\S+?)\.(?:\s|$)", str(error)):
            raise UserError(
                f"Ray does not carry a folder as large as this to the cluster ({size[1]})",
                file=folder,
                expected=f"at most {size[2]}, packed",
                fix="list large data in .rayignore, and name it by an address or a path that the cluster's nodes see",
            ) from error
        raise UserError(
            f"no Ray job server answers at {server} ({str(error).splitlines()[0][:200]})",
            field="--address",
            fix="start a cluster with `ray start --head`, or name its dashboard's address",
        ) from error
    say(f"submitted {job} to {server}")
    if not follow:
        say(f"its log: ray job logs --address {server} {job}")
        return
    asyncio.run(_follow(client, job))
    status, told = client.get_job_status(job), client.get_job_info(job).message
    if status != JobStatus.SUCCEEDED:
        reason = (told or "").strip().partition("\n")[0]
        raise FettleError(f"job {job} {status.value.lower()}: {reason}")
    say(f"job {job} succeeded")


def _submit(client: JobSubmissionClient, entrypoint: str, folder: Path) -> str:
    """The job's id. A cluster just started has a server seconds before it has an agent that takes jobs."""
    until = time.monotonic() + _AGENT_TIMEOUT_S
    while True:
        try:
            return client.submit_job(
                entrypoint=entrypoint, runtime_env={"working_dir": str(folder), "excludes": _NOT_SUBMITTED}
            )
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(1)


async def _follow(client: JobSubmissionClient, job: str) -> None:
    async for lines in client.tail_job_logs(job):
        print(lines, end="", flush=True)
