"""`fettle plan --fit`: the largest models that fit, and how long they take."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fettle.cli.plan import in_money, in_time
from fettle.errors import DoesNotFit, UserError
from fettle.needs.machines import in_gib


def print_ladder(gpus: str | None, on: Path | None, price: float | None, *, as_json: bool) -> None:
    """The ladder on this machine, or on the GPUs or the nodes that are named."""
    if gpus is not None and on is not None:
        raise UserError("--gpus and --on both say where", field="--on", expected="one of them")
    from fettle.needs.ladder import BATCH, LENGTH, Rung, ladder
    from fettle.needs.machines import CPU_PRICE, machines_in, machines_of, this_machine
    from fettle.needs.rates import read_rates

    machines = machines_of(gpus) if gpus is not None else machines_in(on) if on is not None else this_machine()
    rungs = ladder(machines, read_rates())
    each = price if price is not None else machines.gpu.price if machines.gpu is not None else CPU_PRICE
    units = machines.num_gpus or machines.num_cpus or 1

    def row(rung: Rung) -> dict[str, Any]:
        seconds = rung.estimate.seconds * 1e6 / BATCH if rung.estimate is not None else None
        told = asdict(rung) | {"sets": rung.sets, "seconds_a_million_tokens": seconds}
        told["cluster"] = rung.cluster.model_dump() if rung.cluster is not None else None
        return told | {"dollars_a_million_tokens": seconds / 3600 * units * each if seconds is not None else None}

    rows = [row(rung) for rung in rungs]
    if as_json:
        print(json.dumps({"machines": machines.told, "rows": rows}, indent=2))
    else:
        print(f"the largest models that train on {machines.told}: rows of {LENGTH:,} tokens, gradient checkpointing\n")
        for rung, told in zip(rungs, rows, strict=True):
            _print(rung, told)
    if not any(rung.model for rung in rungs):
        raise DoesNotFit(f"no model of the ladder trains on {machines.told}", fix="more memory")


def _print(rung: Any, told: dict[str, Any]) -> None:
    if rung.moment is None:
        print(f"{rung.kind:<13} none\n")
        return
    seconds, dollars = told["seconds_a_million_tokens"], told["dollars_a_million_tokens"]
    print(
        f"{rung.kind:<13} {rung.model:<16} {in_gib(rung.moment.total)} a worker; a million tokens in"
        f" {in_time(seconds)} ({rung.estimate.told}), {in_money(dollars)}"
    )
    print(f"{'':13} {' '.join(f'--set {key}={_quoted(value)}' for key, value in rung.sets.items())}\n")


def _quoted(value: str) -> str:
    return f"'{value}'" if "{" in value else value
