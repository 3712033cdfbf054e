"""fettle: one recipe takes a base language model through every fine-tuning step and puts the result online."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fettle.pipeline.plan import plan
    from fettle.pipeline.runner import run
    from fettle.serving.app import serve
    from fettle.serving.publish import publish
    from fettle.tune.sweep import sweep

# `ray start` guards a cluster with the token where one lies; Ray's clients read this setting once, when imported.
_told = any(name in os.environ for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
if "ray" not in sys.modules and (_told or (Path.home() / ".ray" / "auth_token").is_file()):
    os.environ.setdefault("RAY_AUTH_MODE", "token")

# bitsandbytes, imported by PEFT, warns on some CPUs that it has no faster kernel from the hub to load.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

__all__ = ["plan", "publish", "run", "serve", "sweep"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """The public functions, imported when first used: `import fettle` loads neither torch nor ray."""
    if name == "plan":
        from fettle.pipeline.plan import plan

        return plan
    if name == "run":
        from fettle.pipeline.runner import run

        return run
    if name == "sweep":
        from fettle.tune.sweep import sweep

        return sweep
    if name == "serve":
        from fettle.serving.app import serve

        return serve
    if name == "publish":
        from fettle.serving.publish import publish

        return publish
    raise AttributeError(f"module 'fettle' has no attribute '{name}'")
