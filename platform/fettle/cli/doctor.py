"""`fettle doctor`: whether fettle can be used on this machine, or on a cluster, and what to mend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fettle.doctor.finding import Finding


def doctor_command(
    address: Annotated[
        str | None,
        typer.Option(help="Look at a cluster instead, by its job server: http://HEAD:8265.", show_default=False),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(help="Where runs will be written; by default ./runs, on a cluster ~/fettle.", show_default=False),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The findings as JSON, for programs.")] = False,
) -> None:
    """Look at this machine: versions, GPUs, memory, disks, limits, ports, Ray's token. Exits 2 where something has to
    be mended before fettle can be used."""
    if address is not None:
        from fettle.doctor.cluster import check_cluster

        findings = check_cluster(address, out or "~/fettle")
    else:
        from fettle.doctor.looked_at import check_all

        findings = check_all(Path(out or "runs").absolute())
    typer.echo(_as_json(findings) if json else _as_lines(findings))
    if any(one.level == "bad" for one in findings):
        raise typer.Exit(2)


def _as_json(findings: Sequence[Finding]) -> str:
    from dataclasses import asdict
    from json import dumps

    usable = all(one.level != "bad" for one in findings)
    return dumps({"usable": usable, "findings": [asdict(one) for one in findings]}, indent=2, ensure_ascii=False)


def _as_lines(findings: Sequence[Finding]) -> str:
    width = max(len(one.what) for one in findings)
    lines = []
    for one in findings:
        lines.append(f"{one.level:<4}  {one.what:<{width}}  {one.told}")
        if one.fix is not None:
            lines.append(f"{'':<4}  {'':<{width}}  fix: {one.fix}")
    bads, notes = (sum(one.level == level for one in findings) for level in ("bad", "note"))
    told = f"{bads} to mend" if bads else "usable"
    lines.append(f"{told}; {len(findings)} looked at, {notes} to know of")
    return "\n".join(lines)
