"""A version that an engine holds, and why there may be none."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fettle.artifact import digest_folder
from fettle.data.neutral import Neutral
from fettle.errors import FettleError, UserError
from fettle.registry.folder import Version


class NotPublished(FettleError):
    """A name that means nothing here."""


class NoRoom(FettleError):
    """All places are taken by versions that answer requests."""


@dataclass(eq=False)
class Resident:
    """A version that the engine holds. folder: the replica's own copy of its files. running: requests on it. used: when
    one last began or ended, on the monotonic clock."""

    version: Version
    folder: Path
    defaults: dict[str, Any]
    neutral: Neutral
    running: int = 0
    used: float = 0.0


def copy(version: Version, folder: Path) -> None:
    """Makes `folder` the replica's own copy of its files: the engine may read them again whenever it likes, whatever
    becomes of the registry. Raises UserError where they are not those that were published."""
    shutil.copytree(version.folder, folder)
    if digest_folder(folder) != version.digest:
        raise UserError(f"the files of {version.id} are not those that were published")
