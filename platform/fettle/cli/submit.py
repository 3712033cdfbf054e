"""`fettle submit`: a recipe's stages as a job of a Ray cluster, followed until it ends."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fettle.cli.run import SetOption, UntilOption, parse_overrides
from fettle.errors import UserError

if TYPE_CHECKING:
    from fettle.recipe import Recipe
    from fettle.recipe.stages import StageBase


def submit_command(
    recipe: Annotated[Path, typer.Argument(help="The recipe, below the folder that is submitted.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="The run's folder, where all nodes see it.", show_default=False)
    ] = None,
    set_: SetOption = None,
    until: UntilOption = None,
    address: Annotated[
        str | None, typer.Option(help="The job server; by default RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265.")
    ] = None,
    working_dir: Annotated[Path, typer.Option(help="The folder that travels to the cluster.")] = Path(),
    wait: Annotated[bool, typer.Option(help="Follow the job's log until it ends.")] = True,
) -> None:
    """Submit a recipe to a Ray cluster's job server and follow its log."""
    from fettle.recipe import load_recipe

    overrides = set_ or []
    loaded = load_recipe(recipe, parse_overrides(overrides))
    folder = working_dir.resolve()
    if not recipe.resolve().is_relative_to(folder):
        raise UserError(
            f"{recipe} does not lie below {folder}", fix="submit from a folder above it, or say --working-dir"
        )
    if not (folder / "jobs" / "pipeline.py").is_file():
        raise UserError(f"there is no jobs/pipeline.py below {folder}", fix="say --working-dir, a clone of fettle")
    _check_data(loaded, folder)
    words = ["python", "jobs/pipeline.py", str(recipe.resolve().relative_to(folder))]
    # The job's own folder goes when the job does.
    words += ["--out", str((out or Path("runs", loaded.name)).resolve())]
    words += [word for pair in overrides for word in ("--set", pair)]
    words += ["--until", until] if until else []
    server = address or os.environ.get("RAY_API_SERVER_ADDRESS") or "http://127.0.0.1:8265"

    from fettle.pipeline.submit import submit_job

    # The entrypoint goes through a shell over there: quoted word by word.
    submit_job(server, shlex.join(words), folder, follow=wait, say=typer.echo)


def _check_data(recipe: Recipe, folder: Path) -> None:
    """Raises UserError for data at a relative path that leads out of the folder: over there it leads elsewhere."""
    from fettle.data.remote import is_address, local_path

    for stage in recipe.stages:
        for key, named in _paths(stage):
            path = local_path(named)
            if is_address(path) or Path(path).expanduser().is_absolute():
                continue
            if not recipe.resolve(path).is_relative_to(folder):
                field = f"stages.{stage.name}.{key}"
                raise UserError(
                    f"{path} does not lie below {folder}, and so does not travel to the cluster",
                    **recipe.where(field),
                    fix="copy it there, name an address, or an absolute path that the cluster's nodes see",
                )


def _paths(stage: StageBase) -> list[tuple[str, str]]:
    """The keys of a stage that name files, and what they name."""
    from fettle.recipe.rl import RlStage
    from fettle.recipe.stages import LearningStage, TrainingStage

    found: list[tuple[str, str]] = []
    if isinstance(stage, TrainingStage):
        found += [("data", source.path) for source in stage.data]
        found += [("replay", stage.replay.data.path)] if stage.replay else []
    if isinstance(stage, RlStage):
        found += [("prompts", source.path) for source in stage.prompts]
        for key, specs in (("rewards", stage.rewards), ("judges", stage.judges)):
            functions = [(number, one.function) for number, one in enumerate(specs)]
            found += [(f"{key}.{number}", name.rpartition(":")[0]) for number, name in functions if name is not None]
        found += [("environment", stage.environment.rpartition(":")[0])] if stage.environment else []
    if isinstance(stage, LearningStage) and stage.heldout is not None and stage.heldout.data is not None:
        found.append(("heldout", stage.heldout.data.path))
    return found
