"""What the programs of this folder share: they are `fettle` with its words, on the cluster the job is on."""

import sys
from collections.abc import Sequence
from pathlib import Path

KEPT = Path.home() / "fettle"
"""Where results go by default: the job's own folder goes when the job does."""


def with_out(given: Sequence[str], out: Path) -> list[str]:
    """The words, and `--out` where they have none."""
    has_out = any(word == "--out" or word.startswith("--out=") for word in given)
    return list(given) if has_out else [*given, "--out", str(out)]


def fettle(words: Sequence[str]) -> None:
    """Runs the command, begins it again where its driver dies, and exits as it does."""
    try:
        from fettle.cli.job import main
    except ModuleNotFoundError as error:
        sys.exit(
            f"jobs/{Path(sys.argv[0]).name}: {sys.executable} on this node cannot import {error.name}\n"
            "  fix: start Ray there with fettle's environment active (PATH=.venv/bin:$PATH ray start …)"
        )
    main(words)
