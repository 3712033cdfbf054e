"""MLflow's own server for benchmarks/chaos.py to kill. fettle installs none: the command comes from another environment
(`python -m venv ENV && ENV/bin/pip install mlflow`, then `--mlflow ENV/bin/mlflow`)."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path

_STARTS_S = 180
_LOSSES = """SELECT s.name, m.step, m.value FROM metrics m
    JOIN runs s ON s.run_uuid = m.run_uuid
    JOIN tags p ON p.run_uuid = s.run_uuid AND p.key = 'mlflow.parentRunId'
    JOIN tags o ON o.run_uuid = p.value AND o.key = 'fettle.out'
    WHERE m.key = 'loss' AND o.value = ? ORDER BY s.name, m.step"""


class Server:
    """One server on a SQLite file in `folder`, always at the same address."""

    def __init__(self, command: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.uri, self.database, self.log = f"http://127.0.0.1:{port}", folder / "mlflow.db", folder / "server.log"
        self._words = [command, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        self._words += ["--backend-store-uri", f"sqlite:///{self.database}"]
        self._words += ["--artifacts-destination", str(folder / "artifacts")]
        self._process: subprocess.Popen[bytes] | None = None
        atexit.register(self.kill)

    def start(self) -> None:
        """Returns when it answers."""
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(self._words, stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + _STARTS_S
        while time.monotonic() < until and self._process.poll() is None:
            try:
                urllib.request.urlopen(f"{self.uri}/health", timeout=5).close()
                return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        self.kill()
        raise SystemExit(f"MLflow's server does not start: {self.log.read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, to its workers too."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def losses(self, out: Path) -> list[tuple[str, int, float]]:
        """(stage, step, loss) as it was told them of the runs in a folder, in order."""
        with closing(sqlite3.connect(f"file:{self.database}?mode=ro", uri=True)) as database:
            return list(database.execute(_LOSSES, [str(out)]))
