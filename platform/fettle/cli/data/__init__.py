"""`fettle data`: see and check data before training on it, and split it."""

import typer

from fettle.cli.data.check import check_command
from fettle.cli.data.show import show_command
from fettle.cli.data.split import split_command

app = typer.Typer(help="See and check data before training on it.", no_args_is_help=True)
app.command("check")(check_command)
app.command("show")(show_command)
app.command("split")(split_command)
