"""What `ray job submit` runs: the same as `fettle run`, on the cluster the job is on.

    ray job submit --working-dir . -- python jobs/pipeline.py recipes/demo.yaml [--out DIR] [--set k=v] [--until STAGE]

fettle has to be installed on the cluster's nodes, Ray started with its environment active (`python` is looked up on the
node's PATH), and `--out` has to lie where all nodes see it; by default it is ~/fettle/runs/RECIPE, since the job's own
folder goes when the job does.
"""

import sys
from pathlib import Path


def arguments(given: list[str]) -> list[str]:
    """The words for `fettle` of those after the script's name; the recipe comes first."""
    if not given or any(word == "--out" or word.startswith("--out=") for word in given):
        return ["run", *given]
    return ["run", *given, "--out", str(Path.home() / "fettle" / "runs" / Path(given[0]).stem)]


if __name__ == "__main__":
    try:
        from fettle.cli.main import main
    except ModuleNotFoundError as error:
        sys.exit(
            f"jobs/pipeline.py: {sys.executable} on this node cannot import {error.name}\n"
            "  fix: start Ray there with fettle's environment active (PATH=.venv/bin:$PATH ray start …)"
        )
    sys.argv[1:] = arguments(sys.argv[1:])
    main()
