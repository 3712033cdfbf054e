"""`tracking`: where runs, their curves and their artifacts are told."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from fettle.recipe.spec import Spec


class TrackingSpec(Spec):
    """The MLflow that a run is told to. Nothing of it changes what is computed."""

    uri: str | None = Field(None, min_length=1)
    """A server (`https://…`), a database file (`sqlite:///…`), or the folder of one. By default what
    `MLFLOW_TRACKING_URI` says, else `.mlflow` beside the run's folder: a SQLite file, no server."""
    experiment: str | None = Field(None, min_length=1)
    """MLflow's experiment; by default the recipe's `name`."""

    @field_validator("uri")
    @classmethod
    def _is_of_a_known_kind(cls, uri: str | None) -> str | None:
        if uri is not None and "://" in uri:
            parts = urlsplit(uri)
            if parts.scheme not in ("http", "https", "sqlite"):
                raise ValueError(f"{parts.scheme}:// is neither a server (https://…) nor a database file (sqlite:///…)")
            if parts.password is not None:  # the recipe lies in the run's folder and in the tracker itself
                raise ValueError(
                    "a password does not belong here; MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD say it"
                )
        return uri


Tracking = TrackingSpec | Literal["off"]


def as_tracking(value: Any) -> Any:
    """`tracking: off`, which YAML reads as false, and `tracking: URI`."""
    if value is False or value == "off":
        return "off"
    return {"uri": value} if isinstance(value, str) else value


def embedded_uri(folder: Path) -> str:
    """The database file of the tracker that lies in a folder."""
    return f"sqlite:///{folder.resolve() / 'mlflow.db'}"
