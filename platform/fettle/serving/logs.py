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
