"""MLflow's client: opened with short time-outs; runs are found by a tag of ours, or made. Its only importer."""

from __future__ import annotations

import getpass
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# A server that does not answer costs a few seconds and no more. MLflow's own settings go before these.
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
_LONGEST_PARAM, _LONGEST_TAG = 500, 5000  # characters that servers of earlier versions take, too
_AT_ONCE = {"metrics": 1000, "params": 100, "tags": 100}
_LOGIN = re.compile(r"//[^/@\s]+@")
_NOT_IN_NAMES = re.compile(r"[^\w.\- /]")

Curve = Sequence[tuple[str, float, int, int]]
"""Name, value, milliseconds since 1970, step."""


class Tracker:
    """One tracker, by its address. Whatever is told twice is there once. Raises what MLflow raises."""

    def __init__(self, uri: str) -> None:
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        self.artifacts: str | None = None
        if uri.startswith("sqlite:///"):
            folder = Path(uri.removeprefix("sqlite:///")).resolve().parent
            folder.mkdir(parents=True, exist_ok=True)
            self.artifacts = (folder / "artifacts").as_uri()
        from mlflow.tracking import MlflowClient

        for name in ("mlflow", "alembic"):
            logging.getLogger(name).setLevel(logging.WARNING)  # they tell each step of making a database
        self.client = MlflowClient(uri)

    def experiment(self, name: str) -> str:
        """The id of the experiment so called."""
        from mlflow.exceptions import MlflowException

        found = self.client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self.client.create_experiment(name, artifact_location=self.artifacts))
            except MlflowException:  # another run has just made it
                found = self.client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def run(self, experiment: str, tag: str, value: str, **made: Any) -> tuple[str, dict[str, str]]:
        """(id, tags) of the run that has the tag; where there is none it is made, of `name`, `began` and `tags`."""
        found = self.client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
        if found:
            return str(found[0].info.run_id), dict(found[0].data.tags)
        tags = {tag: value, "mlflow.user": _user(), **made["tags"]}
        run = self.client.create_run(experiment, start_time=made["began"], tags=tags, run_name=made["name"])
        return str(run.info.run_id), tags

    def run_with(self, tag: str, value: str) -> str | None:
        """The id of the earliest run that has the tag, of any experiment: a later one reproduced it."""
        experiments = [str(one.experiment_id) for one in self.client.search_experiments()]
        if not experiments:
            return None
        how: dict[str, Any] = {"max_results": 1, "order_by": ["attributes.start_time ASC"]}
        found = self.client.search_runs(experiments, f"tags.`{tag}` = '{value}'", **how)
        return str(found[0].info.run_id) if found else None

    def tell(
        self,
        run: str,
        *,
        curve: Curve = (),
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Metrics, parameters and tags of a run; the tags last."""
        from mlflow.entities import Metric, Param, RunTag

        told: dict[str, list[Any]] = {
            "metrics": [Metric(name_of(name), value, when, step) for name, value, when, step in curve],
            "params": [Param(name_of(key), value[:_LONGEST_PARAM]) for key, value in (params or {}).items()],
            "tags": [RunTag(key, value[:_LONGEST_TAG]) for key, value in (tags or {}).items()],
        }
        for what, rows in told.items():
            for start in range(0, len(rows), _AT_ONCE[what]):
                batch: dict[str, Any] = {what: rows[start : start + _AT_ONCE[what]]}
                self.client.log_batch(run, **batch)

    def tell_data(self, run: str, sources: Sequence[Mapping[str, Any]]) -> None:
        """What a stage reads: `use`, `path`, `digest` and `files` of each source."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            # MLflow keeps 36 characters of a digest; the whole one is among the run's tags.
            DatasetInput(
                Dataset(one["path"][-500:], one["digest"][:36], "local", ", ".join(one["files"])[:2000]),
                [InputTag("mlflow.data.context", one["use"])],
            )
            for one in sources
        ]
        if inputs:
            self.client.log_inputs(run, datasets=inputs)


def name_of(key: str) -> str:
    """The key as MLflow allows it."""
    return _NOT_IN_NAMES.sub("_", key)[:250]


def reason(error: Exception) -> str:
    """In one line; an address in it without who it lets in."""
    told = [line for line in str(error).splitlines() if line and not line.startswith("(raised as a result of")]
    return without_login(told[0].partition(" with exception ")[0][:200] if told else type(error).__name__)


def without_login(text: str) -> str:
    """The text; an address in it without who it lets in."""
    return _LOGIN.sub("//", text)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())
