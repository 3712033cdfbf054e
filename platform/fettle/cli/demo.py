"""`fettle demo`: the main job from data to endpoint, on a tiny model, in a few minutes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo_command(
    out: Annotated[Path, typer.Option(help="The run's folder.")] = Path("runs/demo"),
    port: Annotated[int | None, typer.Option(help="The endpoint's port; by default a free one.")] = None,
) -> None:
    """Train a tiny model on invented documents, serve it, and ask it before and after."""
    from fettle.pipeline.demo import demo

    demo(out, port)
