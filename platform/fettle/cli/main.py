"""The `fettle` command. Imports neither torch, ray, vllm nor transformers until a verb needs them."""

from __future__ import annotations

import sys

import typer

from fettle.cli import data, keys, registry, rl
from fettle.cli.chat import chat_command
from fettle.cli.compare import compare_command
from fettle.cli.demo import demo_command
from fettle.cli.doctor import doctor_command
from fettle.cli.evaluate import evaluate_command
from fettle.cli.export import export_command
from fettle.cli.generate import generate_command
from fettle.cli.init import init_command
from fettle.cli.jobs import logs_command, stop_command
from fettle.cli.merge import merge_command
from fettle.cli.parity import parity_command
from fettle.cli.plan import plan_command
from fettle.cli.quantize import quantize_command
from fettle.cli.reproduce import reproduce_command
from fettle.cli.run import run_command
from fettle.cli.runs import runs_command
from fettle.cli.serve import serve_command
from fettle.cli.show import show_command
from fettle.cli.submit import submit_command
from fettle.cli.sweep import sweep_command
from fettle.errors import FettleError, of_the_disk

app = typer.Typer(
    name="fettle",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("init")(init_command)
app.command("plan")(plan_command)
app.command("run")(run_command)
app.command("sweep")(sweep_command)
app.command("submit", context_settings={"ignore_unknown_options": True})(submit_command)
app.command("logs")(logs_command)
app.command("stop")(stop_command)
app.command("runs")(runs_command)
app.command("show")(show_command)
app.command("compare")(compare_command)
app.command("reproduce")(reproduce_command)
app.command("export")(export_command)
app.command("merge")(merge_command)
app.command("quantize")(quantize_command)
app.command("eval")(evaluate_command)
app.command("parity")(parity_command)
app.command("generate")(generate_command)
app.command("serve")(serve_command)
app.command("publish")(registry.publish_command)
app.command("promote")(registry.promote_command)
app.command("rollback")(registry.rollback_command)
app.command("pin")(registry.pin_command)
app.command("adapters")(registry.adapters_command)
app.command("chat")(chat_command)
app.add_typer(keys.app, name="keys")
app.add_typer(data.app, name="data")
app.add_typer(rl.app, name="rl")
app.command("doctor")(doctor_command)
app.command("demo")(demo_command)


@app.callback()
def _verbs() -> None:
    """One recipe takes a base language model through every fine-tuning step and puts the result online."""


def main() -> None:
    """Runs a verb and exits: 0 done, 1 our failure, 2 the user's mistake or it does not fit, 3 a gate that is shut, 130
    interrupted."""
    try:
        app()
    except FettleError as error:
        print(f"fettle: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        told = of_the_disk(error)
        if told is None:
            raise
        print(f"fettle: {told}", file=sys.stderr)
        sys.exit(told.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
