"""What `ray job submit` runs: the same as `fettle generate`, on the cluster the job is on.

    ray job submit --working-dir . -- python jobs/generate.py MODEL DATA [--out FILE.jsonl] [--engines N] …

As for jobs/pipeline.py, fettle has to be installed on the cluster's nodes. MODEL, adapters and registry have to lie
where all nodes see them. `--out` is by default ~/fettle/answers/DATA.jsonl: the job's own folder goes when it does.
"""

import re
import sys
from pathlib import Path

from command import KEPT, fettle, with_out


def arguments(given: list[str]) -> list[str]:
    """The words for `fettle` of those after the script's name; model and data come first."""
    if len(given) < 2:
        return ["generate", *given]
    name = re.sub(r"[^\w-]+", "-", Path(given[1]).name.partition(".")[0]).strip("-") or "answers"  # of a glob, too
    return ["generate", *with_out(given, KEPT / "answers" / f"{name}.jsonl")]


if __name__ == "__main__":
    fettle(arguments(sys.argv[1:]))
