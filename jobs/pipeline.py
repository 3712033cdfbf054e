"""What `ray job submit` runs: the same as `fettle run`, on the cluster the job is on.

    ray job submit --working-dir . -- python jobs/pipeline.py recipes/demo.yaml [--out DIR] [--set k=v] [--until STAGE]

fettle has to be installed on the cluster's nodes, Ray started with its environment active (`python` is looked up on the
node's PATH), and `--out` has to lie where all nodes see it; by default it is ~/fettle/runs/RECIPE, since the job's own
folder goes when the job does.
"""

import sys
from pathlib import Path

from command import KEPT, fettle, with_out


def arguments(given: list[str]) -> list[str]:
    """The words for `fettle` of those after the script's name; the recipe comes first."""
    return ["run", *(with_out(given, KEPT / "runs" / Path(given[0]).stem) if given else [])]


if __name__ == "__main__":
    fettle(arguments(sys.argv[1:]))
