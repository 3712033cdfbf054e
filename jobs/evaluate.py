"""What `ray job submit` runs: the same as `fettle eval`, on the cluster the job is on.

    ray job submit --working-dir . -- python jobs/evaluate.py MODEL --data FILE [--metrics rouge] [--out FILE.json] …

As for jobs/pipeline.py, fettle has to be installed on the cluster's nodes. MODEL has to lie where the head sees it.
`--out` is by default ~/fettle/evals/MODEL.json: the job's own folder goes when it does.
"""

import re
import sys
from pathlib import Path

from command import KEPT, fettle, with_out


def arguments(given: list[str]) -> list[str]:
    """The words for `fettle` of those after the script's name; the model comes first."""
    if not given:
        return ["eval"]
    name = re.sub(r"[^\w.-]+", "-", Path(given[0]).name).strip("-.") or "model"
    return ["eval", *with_out(given, KEPT / "evals" / f"{name}.json")]


if __name__ == "__main__":
    fettle(arguments(sys.argv[1:]))
