"""The command-line application with all its commands."""

from __future__ import annotations

import typer

from labeler import __version__
from labeler.cli import (
    analysis,
    crosscoders,
    database,
    demo,
    judge,
    labeling,
    labels,
    machine,
    review,
    stages,
    taxonomy,
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"difflens {__version__}")
        raise typer.Exit()


def build_app() -> typer.Typer:
    """Assemble the commands."""
    app = typer.Typer(
        name="difflens",
        help="What did the fine-tune change, concept by concept, and how sure are we?",
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
    )

    @app.callback()
    def difflens(
        version: bool = typer.Option(
            False, "--version", callback=_show_version, is_eager=True, help="Print the version."
        ),
    ) -> None:
        """What did the fine-tune change, concept by concept, and how sure are we?"""

    rooms = (
        demo,
        stages,
        crosscoders,
        analysis,
        labeling,
        labels,
        judge,
        review,
        database,
        machine,
        taxonomy,
    )
    for room in rooms:
        room.register(app)
    return app
