"""`fettle eval --entry`: an entry of a recipe's `evaluate`, of a model that is there."""

from __future__ import annotations

import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

import typer


def evaluate_entry_command(model: str, entry: str, template: str | None, out: Path | None) -> None:
    """Prints what it came to; with `out`, figures lie there, and beside it, in OUT.kept, what was worked out: asked
    again, it goes on from there."""
    from dataclasses import asdict, replace
    from json import dumps

    from fettle.artifact import replace_text
    from fettle.models.base import resolve_base
    from fettle.pipeline.console import plain, quiet

    with ExitStack() as stack, quiet(Path(os.devnull)) as console:  # progress bars, and what libraries find missing
        from fettle.pipeline.entry import evaluate_entry
        from fettle.pipeline.origin import folder_origin
        from fettle.pipeline.report import Report, evaluation_table

        folder = resolve_base(model, field="MODEL_OR_ADAPTER")
        origin = folder_origin(folder, takes_foreign=True, field="MODEL_OR_ADAPTER")
        if template is not None:
            origin = replace(origin, chat_template=template)
        if out is not None:
            kept = out.with_name(f"{out.name}.kept")
        else:
            kept = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fettle-")))
        found = evaluate_entry(origin, entry, kept, plain(console))
        console.print(evaluation_table(Report("eval", kept, 0.0, (), (found,))))
    if out is not None:
        replace_text(out, dumps(asdict(found), indent=2, ensure_ascii=False) + "\n")
        typer.echo(f"report    {out}")
