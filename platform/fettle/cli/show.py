"""`fettle show`: a run, or where an artifact comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fettle.artifact import is_artifact
from fettle.cli.runs import InOption, TrackerOption, near, tracked_runs, when
from fettle.errors import UserError
from fettle.registry.reference import parsed, reference

if TYPE_CHECKING:
    from fettle.pipeline.tracked_runs import TrackedRun

_WIDE = 17


def show_command(
    what: Annotated[
        str, typer.Argument(help="A run (name, folder or id), an artifact's folder, NAME@ALIAS or NAME:N.")
    ],
    folder: InOption = Path("runs"),
    tracker: TrackerOption = None,
    registry: Annotated[
        Path | None, typer.Option(envvar="FETTLE_REGISTRY", help="The registry's folder, for NAME@ALIAS and NAME:N.")
    ] = None,
    card: Annotated[Path | None, typer.Option(help="Write a model card to this file too.", show_default=False)] = None,
) -> None:
    """Print a run, and the whole lineage of what came of it: data, base, recipe, seed, versions, evaluations, and what
    it was made from, back to the base."""
    if is_artifact(what):
        _descent(Path(what), folder, card)
    elif "@" in what or ":" in what:
        _published(what, folder, registry, card)
    else:
        _run(what, folder, tracker, registry, card)


def _published(what: str, folder: Path, registry: Path | None, card: Path | None) -> None:
    from fettle.pipeline.mirror import told_of_name
    from fettle.registry.folder import FolderRegistry

    if registry is None:
        raise UserError(f"{what} is of a registry", fix="name its folder with --registry, or in FETTLE_REGISTRY")
    there = FolderRegistry(registry)
    version = there.find(reference(what))
    if not is_artifact(version.folder):
        raise UserError(f"{version.id} was not made by fettle: nothing is known of where it comes from")
    aliases = sorted(alias for alias, number in there.aliases(version.name).items() if number == version.number)
    _line("version", ", ".join([version.id, *(f"{version.name}@{alias}" for alias in aliases)]))
    _line("published", version.published)
    told = told_of_name(registry, version.name)
    if told is not None and version.number <= told.last and told.number(version.number) != version.number:
        _line("in MLflow", f"version {told.number(version.number)} of {version.name}")
    _descent(version.folder, folder, card, version.id)


def _run(what: str, folder: Path, tracker: str | None, registry: Path | None, card: Path | None) -> None:
    from fettle.pipeline.tracked_runs import find_run

    try:
        run = find_run(tracked_runs(folder, tracker), what)
    except UserError:
        if registry is None or parsed(what) is None:
            raise
        _published(what, folder, registry, card)
        return
    _line("run", f"{run.name} ({run.id})")
    _line("began", when(run))
    _line("state", " ".join(part for part in (run.state, _reason(run)) if part))
    _line("folder", near(run.out))
    _line("recipe", f"{run.tags.get('fettle.recipe')}, {run.tags.get('mlflow.source.name')}")
    if published := run.tags.get("fettle.published"):
        _line("published", published)
    artifacts = []
    for name in run.stages:
        stage = run.stage(name)
        artifacts += [Path(stage["artifact"])] if "artifact" in stage else []
        _line("stage", f"{name}, {stage['kind']}: {stage.get('digest', 'not finished')}" if stage else name)
    for name, value in run.metrics.items():
        if name.startswith("evaluate."):
            _line("evaluated", f"{name.removeprefix('evaluate.')} {value:.3f}")
    last = next((one for one in reversed(artifacts) if is_artifact(one)), None)
    if last is not None:
        _descent(last, folder, card)
    elif card is not None:
        raise UserError(f"{run.name} has no artifact here that a card could be of", field="--card")


def _reason(run: TrackedRun) -> str:
    error = run.tags.get("fettle.error", "").partition("\n")[0]
    return f"({error})" if error else ""


def _descent(artifact: Path, folder: Path, card: Path | None, name: str | None = None) -> None:
    """The artifact, and then whatever it was made from."""
    from fettle.pipeline.card import card as card_of
    from fettle.pipeline.lineage import descent_of, lines

    descents = descent_of(artifact, folder)
    for descent in descents:
        typer.echo(f"\n{descent.artifact.name}, {descent.artifact.kind}")
        for what, told in lines(descent):
            _line(what, told)
    if card is not None:
        if not card.resolve().parent.is_dir():
            raise UserError("its folder is not there", file=card, field="--card")
        card.write_text(card_of(descents, name or descents[0].artifact.name), encoding="utf-8")


def _line(what: str, told: str) -> None:
    typer.echo(f"{what:<{_WIDE}}{told}")
