"""`fettle logs` and `fettle stop`: jobs of a Ray cluster that go on by themselves."""

from __future__ import annotations

from typing import Annotated

import typer

from fettle.cli.submit import AddressOption, follow_until_it_ends

JobArgument = Annotated[
    str, typer.Argument(metavar="JOB_OR_RUN", help="A job's id, or the name or folder of the run it does.")
]


def logs_command(
    job: JobArgument,
    address: AddressOption = None,
    follow: Annotated[bool, typer.Option(help="Go on until the job ends, and exit as it does.")] = True,
) -> None:
    """Print a submitted job's log and follow it until the job ends; Ctrl-C lets the job go on."""
    from fettle.pipeline.job_server import connect, find

    client = connect(address)
    id_ = str(find(client, job, only_live=False).submission_id)
    if follow:
        follow_until_it_ends(id_, address)
    else:
        typer.echo(client.get_job_logs(id_), nl=False)


def stop_command(job: JobArgument, address: AddressOption = None) -> None:
    """Stop a submitted job: it makes a checkpoint first, and goes on from there when it is submitted again."""
    from fettle.pipeline.job_server import connect, stop

    stop(connect(address), job, typer.echo)
