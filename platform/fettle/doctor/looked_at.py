"""All that is looked at on this machine, in the order it is told."""

from __future__ import annotations

from pathlib import Path

from fettle.doctor.accelerator import check_accelerator
from fettle.doctor.built import check_built, check_hub
from fettle.doctor.finding import Finding
from fettle.doctor.machine import check_machine
from fettle.doctor.ray_here import check_ray_here
from fettle.doctor.versions import check_versions


def check_all(out: Path) -> list[Finding]:
    """Takes seconds and changes nothing. out: the folder that runs are to be written below, absolute."""
    return [
        *check_versions(),
        *check_accelerator(),
        *check_machine(out),
        *check_built(),
        *check_ray_here(),
        check_hub(),
    ]
