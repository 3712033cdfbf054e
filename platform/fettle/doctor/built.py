"""What is built when it is first used, and what is fetched."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from fettle.doctor.finding import Finding, bad, note, ok
from fettle.engine.env import device

_HUB_TIMEOUT_S = 3


def check_built() -> list[Finding]:
    """Compiler, Python's headers, DeepSpeed's op of CPUs."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        fix = "install g++ (apt-get install g++)"
        found = [bad("compiler", "no C++ compiler: DeepSpeed and torch build parts at run time", fix)]
    else:
        found = [ok("compiler", compiler)]
    found.append(check_ninja(shutil.which("ninja", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")))
    if device() == "cpu":
        found.append(check_op(_op_folder()))
    return found


def check_ninja(there: str | None) -> Finding:
    """there: where it lies."""
    if there is None:
        return bad("ninja", "is missing: DeepSpeed and torch build with it", f"bash deploy/setup.sh {device()}")
    return ok("ninja", there)


def check_op(folder: Path) -> Finding:
    """folder: where torch keeps the built op. One that an interrupted build left locked stops every worker."""
    if (folder / "lock").exists():
        told = "a build of it was interrupted, or is under way: workers wait for it for ever"
        return bad("deepspeed's op", told, f"rm {folder / 'lock'}, unless something is building now")
    if not (folder / f"{folder.name}.so").is_file():
        told = "not built yet: the first group of workers waits a minute for it"
        return note("deepspeed's op", told, 'python -c "from fettle.train.zero import prebuild; prebuild()"')
    return ok("deepspeed's op", str(folder))


def check_hub() -> Finding:
    """Whether bases and data sets can be fetched from the hub; being offline is nothing bad."""
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return note("hub", "HF_HUB_OFFLINE is set: only what was fetched before")
    address = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    try:
        urlopen(Request(address, method="HEAD"), timeout=_HUB_TIMEOUT_S).close()
    except HTTPError:  # it answers
        pass
    except (OSError, ValueError) as error:
        told = f"{address} is not reached ({error}): bases and data have to be folders and files"
        return note("hub", told, "HF_HUB_OFFLINE=1, so that nothing waits for it; or a proxy (HTTPS_PROXY)")
    token = "with" if os.environ.get("HF_TOKEN") or (_hub_home() / "token").is_file() else "without"
    return ok("hub", f"{address}, {token} a token")


def _hub_home() -> Path:
    return Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")


def _op_folder() -> Path:
    """Of `prebuild` in train/zero.py, as torch and DeepSpeed choose it."""
    told = os.environ.get("TORCH_EXTENSIONS_DIR")
    root = Path(told) if told else Path.home() / ".cache" / "torch_extensions"
    version = f"py{sys.version_info[0]}{sys.version_info[1]}_cpu"
    return (root if told else root / version) / "deepspeed_shm_comm"
