"""Commands that look at results: sql, inspect, history."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from labeler.cli.options import LatentName, StudyPath, print_data
from labeler.errors import UsageError

if TYPE_CHECKING:
    from labeler.store.query.result import QueryResult


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


def print_rows(result: QueryResult, output: OutputFormat) -> None:
    """Print rows on stdout: for people, or as data in UTF-8."""
    from labeler.store.query.query import for_terminal, format_result

    text = format_result(result, output.value)
    if sys.stdout.isatty() or output is OutputFormat.TABLE:
        typer.echo(for_terminal(text) if sys.stdout.isatty() else text, nl=False)
    else:
        print_data(text)


def sql(
    study: StudyPath,
    statement: Annotated[str | None, typer.Argument(help="One SELECT statement.")] = None,
    output: Annotated[OutputFormat, typer.Option("--format", help="How rows are printed.")] = (
        OutputFormat.TABLE
    ),
    saved: Annotated[str | None, typer.Option(help="Ask the saved query of this name.")] = None,
    save: Annotated[str | None, typer.Option(help="Keep the statement under this name.")] = None,
    show: Annotated[bool, typer.Option("--list", help="List the saved queries.")] = False,
    max_rows: Annotated[int, typer.Option(help="Rows printed at most.", min=1)] = 10_000,
    timeout: Annotated[float, typer.Option(help="Seconds allowed.", min=0.001)] = 30.0,
) -> None:
    """Ask the database; read-only by construction."""
    from labeler.api import Study
    from labeler.store.query.saved_queries import find_query, save_query

    opened = Study.open(study)
    if show:
        print_rows(opened.saved_queries(), output)
        return
    if (statement is None) == (saved is None):
        raise UsageError("sql: give a statement, or --saved NAME (`--list` shows the names)")
    question = (
        statement
        if statement is not None
        else find_query(opened.file.query_folder, str(saved)).statement
    )
    result = opened.sql(question, max_rows=max_rows, timeout=timeout)
    if save is not None:
        typer.echo(f"saved: {save_query(opened.file.query_folder, save, question)}", err=True)
    print_rows(result, output)
    if result.truncated:
        typer.echo(f"only the first {max_rows} rows; raise --max-rows for more", err=True)


def inspect(study: StudyPath, latent: LatentName) -> None:
    """Show a latent's norms, nu with intervals, density, and evidence."""
    from labeler.api import Study
    from labeler.cli.inspection import print_latent

    print_latent(Study.open(study), latent)


def history(study: StudyPath, latent: LatentName) -> None:
    """Show every judge label and decision of a latent, oldest first."""
    from labeler.api import Study
    from labeler.cli.inspection import print_history

    print_history(Study.open(study), latent)
