"""Commands on labels: import latents labelled elsewhere, and the spreadsheet round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from labeler.cli.options import StudyPath
from labeler.errors import UsageError

DryRun = Annotated[bool, typer.Option("--dry-run", help="Check and count, change nothing.")]


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("import")(import_)
    group = typer.Typer(help="Spreadsheet round trip of labels.", no_args_is_help=True)
    group.command("export")(export_labels)
    group.command("import")(import_labels)
    app.add_typer(group, name="labels")


def import_(
    study: StudyPath,
    latents: Annotated[Path, typer.Argument(metavar="latents.csv", help="Labelled latents.")],
    dry_run: DryRun = False,
    create_categories: Annotated[
        bool, typer.Option("--create-categories", help="Add unknown slugs to a new version.")
    ] = False,
) -> None:
    """Import latents that were labelled elsewhere; no models are needed."""
    from labeler.api import Study

    result = Study.open(study).import_latents(latents, dry_run, create_categories)
    typer.echo(result.summary(), err=True)


def export_labels(
    study: StudyPath,
    file: Annotated[Path, typer.Argument(metavar="file.csv", help="CSV, or JSONL by its name.")],
) -> None:
    """Write every label in force, with the revision that a correction is based on."""
    from labeler.api import Study

    count = Study.open(study).export_labels(file)
    typer.echo(f"{file}: {count} labels", err=True)


def import_labels(
    study: StudyPath,
    file: Annotated[Path, typer.Argument(metavar="file.csv", help="CSV, or JSONL by its name.")],
    reviewer: Annotated[
        str | None, typer.Option(help="Who decided; the name you are logged in with if not given.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Take corrections back from a spreadsheet: all of them, or on any conflict none."""
    from labeler.api import Study

    name = _user_name() if reviewer is None else reviewer.strip()
    if not name:
        raise UsageError("--reviewer: is empty; say who decided")
    result = Study.open(study).import_labels(file, name, dry_run)
    typer.echo(result.summary(), err=True)


def _user_name() -> str:
    import getpass

    return getpass.getuser()
