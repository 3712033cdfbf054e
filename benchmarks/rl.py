"""fettle's GRPO step beside its limit, a loop with no framework, and TRL's; one step of staleness beside the ideal; the
sync of an adapter. One side after the other, each in a process of its own (`rl_sides.py`, `rl_fettle.py`).

    python benchmarks/rl.py [--quick] [--cases small ragged] [--steps N]

Equal cores: bare, TRL and fettle's synchronous step have one, to which they are bound with all processes they start
(fettle's Ray among them). With a staleness of 1 the learner has one and the engine another: it is compared with the
ideal of its own parts alone, which take (generate + learn) / max(generate, learn) as long in turns, and with the bare
loop's parts in two processes: cores that share caches and memory slow each other down.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from typing import Any

import torch

from house_format import ROOT, row, write_results

BARE_LIMIT, IDEAL_LIMIT, TRL_LIMIT, SYNC_LIMIT_MS = 0.85, 0.85, {"small": 1.2, "ragged": 2.0}, 100
TRLS = {"trl": "TRL's GRPOTrainer", "trl-vllm": "TRL's GRPOTrainer with vLLM in its process"}
_STEPS = {
    "small": {"bare": 8, "trl": 4, "sync": 9, "stale": 10},
    "ragged": {"bare": 5, "trl": 3, "sync": 6, "stale": 7},
    "adapter": {"adapter": 12},
}
_QUICK = {"bare": 3, "trl": 2, "sync": 4, "stale": 4, "adapter": 5}
_BUSY = 1.15  # seconds of the wall's clock for one of a side's own
_TIMEOUT_S = 1800


def main() -> None:
    options = _options()
    rows, busy = [], 1.0
    for case in options.cases:
        steps = _steps(case, options)
        bare = _told("rl_sides.py", "bare", "--case", case, "--steps", steps["bare"], cores=1)
        sync = _told("rl_fettle.py", "step", "--case", case, "--steps", steps["sync"], cores=1)
        rows.append(_against_bare(case, sync, bare))
        busy = max(busy, bare["seconds"] / bare["cpu_seconds"], sync["busy"])
        for side, name in TRLS.items():
            if options.no_trl or (side == "trl-vllm" and not options.trl_vllm):
                continue
            trl = _told("rl_sides.py", side, "--case", case, "--steps", steps["trl"], cores=1)
            rows.append(_against_trl(case, sync, trl, name))
            busy = max(busy, trl["seconds"] / trl["cpu_seconds"])
        stale = _told("rl_fettle.py", "step", "--case", case, "--staleness", 1, "--steps", steps["stale"], cores=2)
        rows.append(_against_ideal(case, sync, stale))
        beside = _told("rl_sides.py", "beside", "--case", case, "--steps", steps["stale"], cores=2)
        rows.append(_against_beside(case, stale, beside))
        busy = max(busy, stale["busy"])
    adapter = _told("rl_fettle.py", "adapter", "--steps", _steps("adapter", options)["adapter"], cores=1)
    rows.append(_of_adapter(adapter))
    _table(rows)
    used = f"1 thread a process; 1 core, with staleness 2; torch {torch.__version__}"
    if busy > _BUSY:
        used += f"; the machine was busy: {busy:.2f} s on the clock for one of a side's own, so no ratio holds"
        print(used)
    is_whole = not (options.quick or options.steps or options.no_trl) and set(options.cases) == set(TRL_LIMIT)
    write_results("rl", rows, used, "" if is_whole else "part")


def _steps(case: str, options: argparse.Namespace) -> dict[str, int]:
    if options.steps:
        return dict.fromkeys(_QUICK, options.steps)
    return _QUICK if options.quick else _STEPS[case]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few steps: whether it works, and no measurement")
    parser.add_argument("--cases", nargs="+", choices=tuple(TRL_LIMIT), default=list(TRL_LIMIT))
    parser.add_argument("--steps", type=int, help="of each side, the warm-up included")
    parser.add_argument("--trl-vllm", action="store_true", help="TRL with vLLM in its process too, which wants a GPU")
    parser.add_argument("--no-trl", action="store_true", help="leave out the slowest side")
    return parser.parse_args()


def _told(script: str, *arguments: object, cores: int) -> dict[str, Any]:
    """What a side printed at the end, run on so many cores."""
    words = [str(one) for one in arguments]
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < cores:
        raise SystemExit(f"{script} {' '.join(words)} needs {cores} cores, and there is {len(allowed)}")
    done = subprocess.run(
        [
            "taskset",
            "-c",
            ",".join(map(str, allowed[-cores:])),
            sys.executable,
            str(ROOT / "benchmarks" / script),
            *words,
        ],
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        # Libraries count the machine's cores, and would start as many threads on one.
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(words)} failed:\n{done.stderr[-4000:]}")
    line = done.stdout.strip().splitlines()[-1]
    print(f"{script} {' '.join(words)}: {line}", flush=True)
    found: dict[str, Any] = json.loads(line)
    return found


def _against_bare(case: str, sync: dict[str, Any], bare: dict[str, Any]) -> dict[str, Any]:
    what = (
        f"{case}: a synchronous step, sync of all weights included (wanted: at least {BARE_LIMIT}); {_parts(sync)},"
        f" else {sync['overhead']:.2f}; {sync['tokens_per_step']} and {bare['tokens_per_step']} tokens"
    )
    peer = f"vLLM and a packed torch loop, generate {bare['generate']:.2f} + learn {bare['learn']:.2f} s, no sync"
    return row(what, "s", sync["seconds"], peer, bare["seconds"], bare["seconds"] / sync["seconds"], limit=True)


def _against_trl(case: str, sync: dict[str, Any], trl: dict[str, Any], name: str) -> dict[str, Any]:
    what = (
        f"{case}: a synchronous step (wanted: at least {TRL_LIMIT[case]});"
        f" {sync['tokens_per_step']} and {trl['tokens_per_step']} tokens"
    )
    peer = f"{name}, generate {trl['generate']:.2f} + learn {trl['learn']:.2f} s"
    return row(what, "s", sync["seconds"], peer, trl["seconds"], trl["seconds"] / sync["seconds"], limit=False)


def _against_ideal(case: str, sync: dict[str, Any], stale: dict[str, Any]) -> dict[str, Any]:
    generate, learn = sync["generate"], sync["learn"]
    ideal = (generate + learn) / max(generate, learn)
    achieved = sync["seconds"] / stale["seconds"]
    what = (
        f"{case}: speed-up of max_staleness 1 on two cores (wanted: at least {IDEAL_LIMIT} of the ideal);"
        f" a step {sync['seconds']:.2f} and {stale['seconds']:.2f} s, {_parts(stale)}, at most {stale['oldest']} old"
    )
    peer = f"ideal: ({generate:.2f} + {learn:.2f}) / {max(generate, learn):.2f} s"
    return row(what, "times", round(achieved, 3), peer, round(ideal, 3), achieved / ideal, limit=True)


def _against_beside(case: str, stale: dict[str, Any], beside: dict[str, Any]) -> dict[str, Any]:
    what = f"{case}: a step of max_staleness 1, sync of all weights included; {_parts(stale)}"
    peer = f"the bare loop's two parts in two processes beside each other, no sync; {_parts(beside)}"
    return row(what, "s", stale["seconds"], peer, beside["seconds"], beside["seconds"] / stale["seconds"], limit=True)


def _of_adapter(adapter: dict[str, Any]) -> dict[str, Any]:
    ms = 1000 * adapter["sync"]
    what = "sync of an adapter alone: LoRA r=16 over the bundled model, written, checked, taken and probed"
    return row(what, "ms", round(ms, 1), "limit", SYNC_LIMIT_MS, SYNC_LIMIT_MS / ms, limit=True)


def _parts(side: dict[str, Any]) -> str:
    return f"generate {side['generate']:.2f} + learn {side['learn']:.2f} s"


def _table(rows: list[dict[str, Any]]) -> None:
    print(f"\n{'fettle':>9} {'peer':>9} {'ratio':>6}")
    for one in rows:
        print(
            f"{one['fettle']:>9.3f} {one['peer_value']:>9.3f} {one['ratio']:>6.2f}  {one['what']}\n{'':28}{one['peer']}"
        )


if __name__ == "__main__":
    main()
