"""What `ray job submit` runs: the same as `fettle run`, on the cluster the job is on.

    ray job submit --working-dir . -- python jobs/pipeline.py recipes/demo.yaml [--out DIR] [--set k=v] [--until STAGE]

fettle has to be installed on the cluster's nodes, Ray started with its environment active (`python` is looked up on the
node's PATH), and `--out` has to lie where all nodes see it.
"""

import sys

if __name__ == "__main__":
    try:
        from fettle.cli.main import main
    except ModuleNotFoundError as error:
        sys.exit(
            f"jobs/pipeline.py: {sys.executable} on this node cannot import {error.name}\n"
            "  fix: start Ray there with fettle's environment active (PATH=.venv/bin:$PATH ray start …)"
        )
    sys.argv[1:1] = ["run"]
    main()
