"""Where the libraries' noise goes: one file per endpoint, in `~/.cache/fettle/logs`."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from fettle.output import cache_folder


def new_log() -> Path:
    """An empty file `serve-<time>-<pid>.log`."""
    folder = cache_folder("logs")
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"serve-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    file.touch()
    return file.resolve()


def log_into(file: Path, *names: str) -> None:
    """Sends these loggers to the file and nowhere else."""
    handler = logging.FileHandler(file)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in names:
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False


def access_file(log: Path) -> Path:
    """Where requests are logged, beside the noise of an endpoint."""
    return log.with_suffix(".access.jsonl")


def log_requests(log: str | None) -> None:
    """Has each request logged as one line of JSON: into `access_file`, or printed where there is no log."""
    handler = logging.FileHandler(access_file(Path(log))) if log is not None else logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger = logging.getLogger("fettle.access")
    logger.handlers[:], logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
