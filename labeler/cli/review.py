"""The command that starts the review server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labeler.cli.options import StudyPath


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("review")(review)


def review(
    study: StudyPath,
    host: Annotated[
        str, typer.Option(help="Address to listen on; one that others reach needs a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8400,
    reviewer: Annotated[
        str | None, typer.Option(help="Who decides; the name you are logged in with if not given.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="What reviewers sign in with; better in a file.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A file whose first line is the token.")
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A further name of this server.")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, max=32, help="Processes that answer; one, or with a token one a core."),
    ] = None,
) -> None:
    """Review labels in the browser: `http://127.0.0.1:8400/`, until Ctrl-C."""
    from labeler.review.server import ServerOptions, serve

    names = tuple(allow_host or ())
    serve(study, ServerOptions(host, port, reviewer, token, token_file, names, workers))
