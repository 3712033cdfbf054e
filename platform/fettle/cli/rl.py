"""`fettle rl`: what a stage of reinforcement learning has recorded, while it runs or afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from unicodedata import category

import typer

from fettle.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from fettle.rl.recorder import IterationRow

_LAST = 20
app = typer.Typer(help="See what reinforcement learning has recorded.", no_args_is_help=True)


@app.callback()
def _verbs() -> None:
    """See what reinforcement learning has recorded."""  # without a callback typer would take `show` for an argument


@app.command("show")
def show_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, or that of its stage.", show_default=False)
    ],
    iteration: Annotated[
        int | None, typer.Option("--iteration", min=0, help="All of this iteration, with its sampled answers.")
    ] = None,
) -> None:
    """Show a run's last iterations and its alarms, or one iteration in full."""
    from rich.console import Console

    from fettle.rl.recorder import read_rows

    files = recorded(run)
    # Answers are data: neither markup nor numbers to be coloured.
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    if iteration is not None:
        file = _only(run, files)
        _print_row(console, _row_of(read_rows(file), iteration, file))
        return
    for file in files:
        rows = read_rows(file)
        if len(files) > 1:
            console.print(f"stage {file.parent.name}", style="bold")
        console.print(_table(rows[-_LAST:]))
        if len(rows) > _LAST:
            console.print(f"the last {_LAST} of {len(rows):,} iterations", style="dim")
        for row in rows:
            for alarm in row.alarms:
                console.print(f"iteration {row.iteration}: {alarm}", style="yellow")


@app.command("replay")
def replay_command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run's folder, or that of its stage.", show_default=False)
    ],
    iteration: Annotated[int, typer.Option("--iteration", min=0, help="Which iteration.", show_default=False)],
) -> None:
    """Run one stored batch again through the learner, and compare its figures with the recorded ones."""
    from rich.console import Console
    from rich.table import Table

    from fettle.rl.recorder import read_rows
    from fettle.rl.replay import replay

    file = _only(run, recorded(run))
    row, found = _row_of(read_rows(file), iteration, file), replay(file.parent, iteration)
    figures = found.figures
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    drawn = Table(box=None, pad_edge=False)
    for name in (f"iteration {iteration}", "recorded", "replayed"):
        drawn.add_column(name, justify="left" if name.startswith("iteration") else "right")
    for name, before, now in (
        ("loss", row.loss, figures.loss),
        ("kl, nats a token", row.kl["token"], figures.kl),
        ("entropy, nats a token", row.entropy, figures.entropy),
        ("clip fraction", row.clip_fraction, figures.clip_fraction),
        ("importance ratio, largest", row.ratio["max"], figures.ratio_max),
        ("gap, mean nats", row.gap["mean"], figures.gap_mean),
        ("gap, largest", row.gap["max"], figures.gap_max),
        ("gradient norm", row.grad_norm, found.grad_norm),
    ):
        drawn.add_row(name, f"{before:.6g}", f"{now:.6g}")
    console.print(drawn)
    console.print("\ntokens on which sampler and learner differ most: log-probability of each")
    for one in found.apart:
        sampler, learner = one.logprobs
        where = f"prompt {one.prompt}, sample {one.sample}, token {one.place}"
        console.print(f"  {where:<36} {_printable(one.token):<16} {sampler:.6f} {learner:.6f}")


def recorded(run: Path) -> list[Path]:
    """The recorders' files of a run, or of one of its stages. Raises UserError where there are none."""
    from fettle.rl.recorder import ITERATIONS

    if not run.is_dir():
        raise UserError("no such folder", file=run, expected="a run's folder, or that of its stage")
    if (run / ITERATIONS).is_file():
        return [run / ITERATIONS]
    files = sorted(run.glob(f"stages/*/{ITERATIONS}"))
    if not files:
        raise UserError(
            f"no stage of kind rl has recorded anything here: there is no stages/*/{ITERATIONS}",
            file=run,
            expected="the folder of a run with a stage of kind rl",
        )
    return files


def _only(run: Path, files: Sequence[Path]) -> Path:
    if len(files) > 1:
        raise UserError(
            "--iteration goes with one stage, and there are several",
            file=run,
            expected=", ".join(str(file.parent) for file in files),
        )
    return files[0]


def _row_of(rows: Sequence[IterationRow], iteration: int, file: Path) -> IterationRow:
    found = {row.iteration: row for row in rows}
    if iteration not in found:
        known = f"{rows[0].iteration} to {rows[-1].iteration}" if rows else "none is there yet"
        raise UserError(f"no iteration {iteration}", file=file, field="--iteration", expected=known)
    return found[iteration]


def _table(rows: Sequence[IterationRow]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("iteration", "reward", "kl", "length", "entropy", "clip", "gap", "grad norm", "s"):
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            str(row.iteration),
            f"{row.reward:.3f}",
            f"{row.kl['answer']:.2f}",
            f"{row.lengths['mean']:.0f}",
            f"{row.entropy:.2f}",
            f"{row.clip_fraction:.1%}",
            f"{row.gap['mean']:.4f}",
            f"{row.grad_norm:.2f}",
            f"{row.seconds:.1f}",
        )
    return table


def _print_row(console: Console, row: IterationRow) -> None:
    """All figures, a line for each, then the alarms, then the sampled answers word for word."""
    from dataclasses import fields

    for name in (field.name for field in fields(row) if field.name not in ("alarms", "samples")):
        value = getattr(row, name)
        if value is not None and value != {}:
            console.print(f"{name.replace('_', ' '):18}{_figures(value)}")
    for alarm in row.alarms:
        console.print(alarm, style="yellow")
    for sample in row.samples:
        told = f"reward {sample.reward:.3g} ({_figures(sample.parts)}), {sample.tokens} tokens"
        console.print(f"\n── {told}, ended by {sample.finish}, of weights {sample.version}", style="bold")
        console.print(_printable(sample.prompt), style="dim")
        console.print(_printable(sample.completion))


def _figures(value: float | dict[str, float]) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_figures(one)}" for name, one in value.items())
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _printable(text: str) -> str:
    """The text without the control characters with which an answer could rewrite the terminal."""
    return "".join("�" if category(one) == "Cc" and one not in "\n\t" else one for one in text)
