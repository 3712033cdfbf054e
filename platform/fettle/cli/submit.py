"""`fettle submit`: a verb as a job of a Ray cluster, with the files it names, followed until it ends."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import click
import typer

from fettle.cli.job import RETRIES
from fettle.cli.run import parse_overrides
from fettle.errors import UserError, did_you_mean

if TYPE_CHECKING:
    from fettle.recipe import Recipe

VERBS = ("run", "sweep", "eval", "generate")
_OF_A_RECIPE = ("run", "sweep")
_KEPT = "~/fettle"
AddressOption = Annotated[
    str | None, typer.Option(help="The job server; by default RAY_API_SERVER_ADDRESS or http://127.0.0.1:8265.")
]


def submit_command(
    words: Annotated[
        list[str],
        typer.Argument(metavar="WORDS", help="Those of the verb: RECIPE, --out, --set, --until of `fettle run`, …"),
    ],
    job: Annotated[str, typer.Option(metavar="VERB", help=f"What runs over there: {', '.join(VERBS)}.")] = "run",
    address: AddressOption = None,
    with_: Annotated[
        list[Path] | None,
        typer.Option("--with", help="A file or folder that travels too, such as what a function reads; repeatable."),
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="How often a driver that dies is begun again.")] = RETRIES,
    wait: Annotated[bool, typer.Option(help="Follow the job's log until it ends; Ctrl-C lets it go on.")] = True,
) -> None:
    """Run a recipe (or `--job eval|generate|sweep`) as a job of a Ray cluster, and follow its log. What relative paths
    name travels along; absolute ones and addresses are the cluster's. Results lie in ~/fettle there, unless `--out`
    says where."""
    if job not in VERBS:
        raise UserError(f"no job '{job}'{did_you_mean(job, VERBS)}", field="--job", expected=", ".join(VERBS))
    name, words, recipe = _checked(job, words)
    _check_no_secret(words)
    from fettle.pipeline.job_server import address_of, connect, submit
    from fettle.pipeline.shipped import files_below, files_of_recipe, files_of_words, pack

    out = _out_of(words)
    # Beside its recipe a run names nothing, and a sweep one file.
    named = words[1:2] if job == "sweep" else [] if job == "run" else [word for word in words if word != out]
    files = files_of_words(named)
    for extra in with_ or []:
        if not (more := files_below(extra.absolute())):
            raise UserError(f"no file or folder {extra}", field="--with")
        files += more
    if recipe is not None:
        files += files_of_recipe(recipe)
        words[0] = os.path.relpath(recipe.file)
    with TemporaryDirectory(prefix="fettle-") as folder:
        package = Path(folder, "job.zip") if files else None
        inside = pack(files, Path.cwd(), package) if package else Path()
        client = connect(address)
        line = shlex.join(["python", "-m", "fettle.cli.job", "--retries", str(retries), job, *words])
        if inside != Path():
            line = f"cd {shlex.quote(str(inside))} && exec {line}"
        id_ = submit(client, line, package, {"verb": job, "run": name, "out": out})
    typer.echo(f"submitted {id_} to {address_of(client)}")
    typer.echo(f"results   {out} over there")
    if not wait:
        typer.echo(f"its log   {_again('logs', id_, address)}\nend it    {_again('stop', id_, address)}")
        return
    follow_until_it_ends(id_, address)


def follow_until_it_ends(id_: str, address: str | None) -> None:
    """Prints the job's log and exits as it does; Ctrl-C lets it go on, and exits 130."""
    from fettle.pipeline.job_server import connect, follow
    from fettle.signals import interruptible

    told = f"; the job goes on\n  its log: {_again('logs', id_, address)}\n  end it: {_again('stop', id_, address)}"
    with interruptible(told):
        code = follow(connect(address), id_, typer.echo)
    if code:
        raise typer.Exit(code)


def _again(verb: str, id_: str, address: str | None) -> str:
    return shlex.join(["fettle", verb, id_, *(["--address", address] if address else [])])


def _checked(verb: str, given: Sequence[str]) -> tuple[str, list[str], Recipe | None]:
    """(the run's name, the verb's words with `--out`, the recipe where they begin with one), read as the verb itself
    reads them: what it would refuse is refused here."""
    words, recipe = list(given), None
    if verb in _OF_A_RECIPE:
        from fettle.recipe import load_recipe

        if words[0].startswith("-"):
            raise UserError(f"{words[0]} stands where the recipe belongs", expected="fettle submit RECIPE [OPTIONS]")
        recipe = load_recipe(words[0], parse_overrides(_values(words, "--set")))
        name = recipe.name
    else:
        names = [word for word in words[:2] if not word.startswith("-")] or [verb]
        name = re.sub(r"[^\w-]+", "-", Path(names[-1]).name.partition(".")[0]).strip("-") or verb
    if not _out_of(words):
        suffix = {"run": f"runs/{name}", "sweep": f"sweeps/{name}", "eval": f"evals/{name}.json"}
        words += ["--out", f"{_KEPT}/{suffix.get(verb, f'answers/{name}.jsonl')}"]
    place = next(at for at, word in enumerate(words) if word == "--out" or word.startswith("--out="))
    if words[place] != "--out":
        words[place : place + 1] = ["--out", words[place].partition("=")[2]]
    _check_words(verb, words)
    if not words[place + 1].startswith("~/"):
        words[place + 1] = str(Path(words[place + 1]).absolute())  # the job's own folder goes when the job does
    return name, words, recipe


def _check_words(verb: str, words: Sequence[str]) -> None:
    """Raises click's usage errors where the verb's own command does not take its words."""
    from fettle.cli.main import app

    commands: click.Group = typer.main.get_command(app)  # type: ignore[assignment]
    if verb not in commands.commands:
        raise UserError(f"this fettle has no `fettle {verb}`", field="--job")
    commands.commands[verb].make_context(f"fettle {verb}", list(words))


def _out_of(words: Sequence[str]) -> str:
    return next(iter(_values(words, "--out")), "")


def _values(words: Sequence[str], option: str) -> list[str]:
    """What an option is given, as `--set A` and as `--set=A`."""
    found = [word.partition("=")[2] for word in words if word.startswith(f"{option}=")]
    return found + [after for word, after in pairwise(words) if word == option]


def _check_no_secret(words: Sequence[str]) -> None:
    """Raises UserError where a word would show a secret: a job's line can be read by all who have the token."""
    secrets = {
        key: value
        for key, value in os.environ.items()
        if re.search(r"TOKEN|SECRET|PASSWORD|API_?KEY|ACCESS_KEY", key) and len(value) >= 8
    }
    for word in words:
        held = next((key for key, value in secrets.items() if value in word), None)
        if held is None and not re.search(r"://[^/\s:@]+:[^/\s@]+@", word):
            continue
        raise UserError(
            f"a word holds {'the value of ' + held if held else 'a password'}, and a job's words are no secret",
            fix="leave it out, and set the variable where Ray is started on the nodes",
        )
