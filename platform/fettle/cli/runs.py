"""`fettle runs`: what has been run, the latest first."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fettle.cli.table import lines_of
from fettle.errors import FettleError

if TYPE_CHECKING:
    from fettle.pipeline.tracked_runs import TrackedRun

InOption = Annotated[Path, typer.Option("--in", metavar="FOLDER", help="What the runs' folders lie in.")]
TrackerOption = Annotated[
    str | None,
    typer.Option(
        metavar="URI",
        help="An MLflow server, or the folder of a database; by default MLFLOW_TRACKING_URI, else .mlflow in FOLDER.",
        show_default=False,
    ),
]


def runs_command(
    folder: InOption = Path("runs"),
    tracker: TrackerOption = None,
    sync: Annotated[bool, typer.Option("--sync", help="First tell the tracker what it has not been told.")] = False,
    registry: Annotated[
        Path | None, typer.Option(envvar="FETTLE_REGISTRY", help="With --sync: a registry, beside those of the runs.")
    ] = None,
) -> None:
    """List the runs that the tracker knows: when, how they ended, what they came to."""
    from fettle.pipeline.recorded import pending_records, registries_of

    if sync:
        _sync(pending_records(folder), [*registries_of(folder), *([registry] if registry is not None else [])])
    runs = tracked_runs(folder, tracker)
    rows = [
        (run.name, run.id[:8], when(run), run.state, ", ".join(run.stages), run.result, near(run.out)) for run in runs
    ]
    for line in lines_of(("run", "id", "began", "state", "stages", "result", "folder"), rows):
        typer.echo(line)
    if not runs:
        typer.echo(f"no run is tracked in {folder}")
    if pending := pending_records(folder):
        told = "1 run has" if len(pending) == 1 else f"{len(pending)} runs have"
        typer.echo(f"{told} not been told wholly: fettle runs --sync")


def tracked_runs(folder: Path, tracker: str | None) -> list[TrackedRun]:
    """Every run of a tracker, the latest first. Raises UserError where it does not answer."""
    from fettle.pipeline.tracked_runs import read_runs

    return read_runs(tracker_uri(folder, tracker))


def tracker_uri(folder: Path, tracker: str | None) -> str:
    """The address of the tracker that `--in` and `--tracker` name."""
    from fettle.pipeline.recorded import default_tracker
    from fettle.recipe.tracking import embedded_uri

    if tracker is None:
        return default_tracker(folder)
    return tracker if "://" in tracker else embedded_uri(Path(tracker))


def when(run: TrackedRun) -> str:
    """Day and minute it began, here."""
    return f"{datetime.fromtimestamp(run.began):%Y-%m-%d %H:%M}"


def near(path: Path) -> str:
    """As one would type it from here."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _sync(records: list[Path], registries: list[Path]) -> None:
    from fettle.pipeline.mirror import pending_names, tell_name
    from fettle.pipeline.telling import tell_rest

    failed = []
    for record, why in tell_rest(records):
        typer.echo(f"{near(record.parents[1])}: {f'not told ({why})' if why else 'told'}")
        failed += [record] if why else []
    names = [
        (root, name) for root in dict.fromkeys(one.resolve() for one in registries) for name in pending_names(root)
    ]
    not_told = 0
    for root, name in names:
        why = tell_name(root, name)
        typer.echo(f"{name} in {near(root)}: {f'not told ({why})' if why else 'told'}")
        not_told += bool(why)
    if failed:
        raise FettleError(f"{len(failed)} of {len(records)} runs could not be told; they stay as they are")
    if not_told:
        raise FettleError(f"{not_told} of {len(names)} published names could not be told; they stay as they are")
