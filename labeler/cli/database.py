"""Commands on databases: upgrade, downgrade, current, check, copy, reader."""

from __future__ import annotations

from typing import Annotated

import typer

DatabaseUrl = Annotated[
    str, typer.Argument(metavar="URL", help="sqlite:///FILE or postgresql://HOST/NAME.")
]


def register(app: typer.Typer) -> None:
    """Add the group `db` to the application."""
    group = typer.Typer(help="Database migrations.", no_args_is_help=True)
    for command in (upgrade, downgrade, current, check, copy, reader):
        group.command()(command)
    app.add_typer(group, name="db")


def upgrade(url: DatabaseUrl) -> None:
    """Bring the database to this version's revision; a SQLite file is backed up first."""
    from labeler.store import migrate

    backup = migrate.upgrade(url)
    if backup is not None:
        typer.echo(f"backup: {backup}", err=True)
    typer.echo(f"at revision {migrate.current(url)}", err=True)


def downgrade(
    url: DatabaseUrl,
    revision: Annotated[str, typer.Argument(help="A revision, -1 for one back, or base.")],
) -> None:
    """Take the database back to an older revision."""
    from labeler.store import migrate

    migrate.downgrade(url, revision)
    typer.echo(f"at revision {migrate.current(url) or 'base'}", err=True)


def current(url: DatabaseUrl) -> None:
    """Print the database's revision."""
    from labeler.store import migrate

    typer.echo(migrate.current(url) or "base")


def check(url: DatabaseUrl) -> None:
    """Exit 1 when the database's schema differs from this version's, and say where."""
    from labeler.database_url import url_in_a_command
    from labeler.errors import WorkError
    from labeler.store import migrate

    found = migrate.check(url)
    if found:
        for difference in found:
            typer.echo(difference)
        raise WorkError(
            f"db check: {len(found)} differences from this version's schema; "
            f"`difflens db upgrade {url_in_a_command(url)}`, or restore a backup"
        )
    typer.echo("the schema is this version's", err=True)


def copy(
    source: Annotated[str, typer.Argument(metavar="FROM", help="The database to copy.")],
    target: Annotated[str, typer.Argument(metavar="TO", help="A missing or empty database.")],
) -> None:
    """Copy a study between SQLite and PostgreSQL; prints the checksum of every table."""
    from labeler.progress import progress_for
    from labeler.store.copying import copy_database

    result = copy_database(source, target, progress_for())
    for table in result.tables:
        typer.echo(f"{table.sha256}  {table.rows:>9}  {table.table}")
    typer.echo(f"{result.rows} rows copied, checksums equal", err=True)


def reader(
    url: DatabaseUrl,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="USER", help="Who else may take it on; may be repeated."),
    ] = None,
) -> None:
    """Make the PostgreSQL role, allowed to read and nothing else, that `difflens sql` takes on."""
    from labeler.store.readers import make_reader

    typer.echo(make_reader(url, to or ()))
