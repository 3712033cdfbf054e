"""`fettle plan`: what a recipe takes before it runs: memory, steps, time, money; and what makes it fit."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fettle.cli.run import SetOption, UntilOption, check_first, parse_overrides
from fettle.errors import UserError
from fettle.needs.machines import in_gib

if TYPE_CHECKING:
    from fettle.pipeline.plan import Plan
    from fettle.pipeline.planning import StagePlan


def plan_command(
    recipe: Annotated[Path | None, typer.Argument(help="The recipe, a YAML file.", show_default=False)] = None,
    gpus: Annotated[str | None, typer.Option(help="Plan for these, as in 8xH100.", show_default=False)] = None,
    on: Annotated[
        Path | None, typer.Option(help="Plan for the nodes of this Ray cluster file.", show_default=False)
    ] = None,
    fit: Annotated[bool, typer.Option("--fit", help="Instead: the largest models that fit there.")] = False,
    price: Annotated[
        float | None, typer.Option(help="US dollars an hour of a GPU (of a core, without).", show_default=False)
    ] = None,
    set_: SetOption = None,
    until: UntilOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What a recipe takes before it runs: memory, steps, time, money. Exits 2 where it does not fit."""
    if fit:
        from fettle.cli.plan_fit import print_ladder

        print_ladder(gpus, on, price, as_json=as_json)
        return
    if recipe is None:
        raise UserError("there is no recipe to plan", field="RECIPE", expected="a recipe, or --fit")
    overrides = parse_overrides(set_ or [])
    check_first(recipe, overrides)
    from fettle.pipeline.plan import plan, refusal

    found = plan(recipe, overrides, until, gpus=gpus, on=on, price=price)
    if as_json:
        print(json.dumps(as_rows(found), indent=2))
    else:
        _print(found)
    if (refused := refusal(found)) is not None:
        raise refused


def as_rows(found: Plan) -> dict[str, Any]:
    """The plan for machines: bytes, seconds, dollars."""
    rows = []
    for stage in found.stages:
        rows.append(
            {
                "stage": stage.name,
                "kind": stage.kind,
                "base": stage.base,
                "weights": stage.weights,
                "workers": stage.cluster.workers,
                "zero": stage.cluster.zero,
                "adapter": stage.adapter.model_dump(exclude_none=True) if stage.adapter is not None else None,
                "precision": stage.precision,
                "gradient_checkpointing": stage.checkpointing,
                "moments": [asdict(moment) | {"total": moment.total} for moment in stage.moments],
                "peak": {"moment": stage.peak.name, "bytes": stage.peak.total},
                "beside": [asdict(one) | {"total": one.total} for one in stage.beside],
                "batch": asdict(stage.batch) if stage.batch is not None else None,
                "steps": stage.steps,
                "seconds": stage.seconds,
                "rate": stage.estimate.told if stage.estimate is not None else None,
                "dollars": stage.dollars(found.machines, found.price),
                "disk": stage.disk,
                "problems": list(stage.problems),
                "changes": [{"set": one.sets, "cost": one.cost} for one in found.changes.get(stage.name, [])],
            }
        )
    autos = [asdict(choice) for choice in found.choices]
    return {
        "recipe": found.recipe.name,
        "machines": found.machines.told,
        "fits": found.fits,
        "auto": autos,
        "stages": rows,
    }


def _print(found: Plan) -> None:
    from rich.console import Console

    console = Console(soft_wrap=True, highlight=False)
    console.print(f"{found.recipe.name} on {found.machines.told}", markup=False)
    if found.sets:
        sets = " ".join(f"--set {key}={value}" for key, value in found.sets.items())
        console.print(f"planned with {sets}, which the run wants too", markup=False)
    for choice in found.choices:
        console.print(f"auto      {choice}", markup=False)
    for stage in found.stages:
        console.print()
        for line in _lines(found, stage):
            console.print(line, markup=False)
    console.print()
    if found.seconds is not None and found.dollars is not None:
        console.print(f"in all    {in_time(found.seconds)}, {in_money(found.dollars)}", markup=False)
    if found.fits:
        console.print(f"it fits   fettle run {found.recipe.file}", markup=False)


def _lines(found: Plan, stage: StagePlan) -> list[str]:
    cluster = stage.cluster
    workers = f"{cluster.workers} worker{'s' if cluster.workers > 1 else ''}, ZeRO {cluster.zero}, {stage.precision}"
    adapter = ""
    if stage.adapter is not None:
        bits = f", {stage.adapter.bits} bits" if stage.adapter.bits else ""
        adapter = f", {stage.adapter.kind}{bits}" + (", gradient checkpointing" if stage.checkpointing else "")
    lines = [f"{stage.name}  {stage.kind} of {stage.base} ({in_weights(stage.weights)}): {workers}{adapter}"]
    if stage.batch is not None:
        lines.append(f"  batch     {stage.batch}")
    peak = stage.peak
    each = "" if cluster.workers == 1 else " a worker"
    lines.append(f"  memory    {in_gib(peak.total)}{each}, most at: {peak.name}")
    lines.append("            " + " + ".join(f"{name} {in_gib(size)}" for name, size in peak.parts.items()))
    host = max(stage.moments, key=lambda moment: moment.host_total)
    if host.host_total:
        told = " + ".join(f"{name} {in_gib(size)}" for name, size in host.host.items())
        lines.append(f"  host      {in_gib(host.host_total)}{each}: {told}")
    for one in stage.beside:
        told = " + ".join(f"{name} {in_gib(size)}" for name, size in one.parts.items())
        lines.append(f"  beside    {one.count} × {one.name} {in_gib(one.total)}: {told}")
    lines.append(f"  disk      {in_gib(stage.disk)}")
    if stage.batch is not None and stage.steps is None:
        lines.append("  steps     not known: there is no tokenizer here to count the data with")
    elif stage.seconds is not None and stage.estimate is not None:
        money = stage.dollars(found.machines, found.price)
        cost = f", {in_money(money)}" if money is not None else ""
        each_s = in_time(stage.estimate.seconds)
        lines.append(
            f"  time      {stage.steps:,.0f} steps of {each_s} ({stage.estimate.told}): {in_time(stage.seconds)}{cost}"
        )
    for problem in stage.problems:
        lines.append(f"  DOES NOT FIT  {problem}")
    return lines


def in_weights(count: int) -> str:
    """`7.2 billion weights`."""
    return f"{count / 1e9:.1f} billion weights" if count >= 1e9 else f"{count / 1e6:.1f} million weights"


def in_time(seconds: float) -> str:
    """`3.2 h`, `12 min`, `0.4 s`."""
    if seconds >= 2 * 86400:
        return f"{seconds / 86400:.1f} days"
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    if seconds >= 90:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def in_money(dollars: float) -> str:
    """`$12`, and less of little."""
    return f"${dollars:,.0f}" if dollars >= 20 else f"${dollars:.2f}"
