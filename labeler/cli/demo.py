"""The demo: the whole main job on an embedded default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command()(demo)


def demo(
    workdir: Annotated[Path, typer.Option(help="Folder of the demo's study.")] = Path(
        "difflens-demo"
    ),
) -> None:
    """Run the whole main job on a real pair of small models, minutes on two cores."""
    from labeler.cli.stages import run_and_print
    from labeler.demo.fetch import announce
    from labeler.demo.runner import prepare
    from labeler.extras import require_extra

    require_extra("models", "demo")
    typer.echo(announce(), err=True)
    run_and_print(prepare(workdir), None, None)
