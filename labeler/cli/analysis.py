"""Commands that look at results: sql, inspect, history, taxonomy show."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from labeler.cli.options import LatentName, StudyPath


class OutputFormat(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command()(sql)
    app.command()(inspect)
    app.command()(history)
    group = typer.Typer(help="The categories.", no_args_is_help=True)
    group.callback()(_taxonomy)
    group.command()(show)
    app.add_typer(group, name="taxonomy")


def _taxonomy() -> None:
    """The categories."""


def sql(
    study: StudyPath,
    statement: Annotated[str, typer.Argument(help="One SELECT statement.")],
    output: Annotated[OutputFormat, typer.Option("--format", help="How rows are printed.")] = (
        OutputFormat.TABLE
    ),
    max_rows: Annotated[int, typer.Option(help="Rows printed at most.", min=1)] = 10_000,
    timeout: Annotated[float, typer.Option(help="Seconds allowed.", min=0.001)] = 30.0,
) -> None:
    """Ask the database; read-only by construction."""
    from labeler.api import Study
    from labeler.sql import format_result

    result = Study.open(study).sql(statement, max_rows=max_rows, timeout=timeout)
    typer.echo(format_result(result, output.value), nl=False)
    if result.truncated:
        typer.echo(f"only the first {max_rows} rows; raise --max-rows for more", err=True)


def inspect(study: StudyPath, latent: LatentName) -> None:
    """Show a latent's norms, nu with intervals, density, and evidence."""
    from labeler.api import Study
    from labeler.inspection import print_latent

    print_latent(Study.open(study), latent)


def history(study: StudyPath, latent: LatentName) -> None:
    """Show every judge label and decision of a latent, oldest first."""
    from labeler.api import Study
    from labeler.inspection import print_history

    print_history(Study.open(study), latent)


def show(study: StudyPath) -> None:
    """Print the study's categories with their definitions."""
    from labeler.api import Study
    from labeler.inspection import print_taxonomy

    print_taxonomy(Study.open(study).taxonomy())
