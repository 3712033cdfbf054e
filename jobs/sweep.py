"""What `ray job submit` runs: the same as `fettle sweep`, on the cluster the job is on.

    ray job submit --working-dir . -- python jobs/sweep.py recipes/sweep.yaml [SWEEP.yaml] [--out DIR] [--set k=v]

As for jobs/pipeline.py, fettle has to be installed on the cluster's nodes. Trials read the recipe's data where they
run, so data and `--out` have to lie where all nodes see them; `--out` is by default ~/fettle/sweeps/RECIPE: the job's
own folder goes when it does. Submitted again with the same words, what is over is kept and the rest goes on.
"""

import sys
from pathlib import Path

from command import KEPT, fettle, with_out


def arguments(given: list[str]) -> list[str]:
    """The words for `fettle` of those after the script's name; the recipe comes first."""
    return ["sweep", *(with_out(given, KEPT / "sweeps" / Path(given[0]).stem) if given else [])]


if __name__ == "__main__":
    fettle(arguments(sys.argv[1:]))
