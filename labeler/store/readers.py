"""The PostgreSQL role under which questions are asked: it may read and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import OperationalError, ProgrammingError

from labeler.errors import UsageError
from labeler.store.database_url import parse_url, shown_url
from labeler.store.engine import database_failure, open_engine

INSUFFICIENT_PRIVILEGE = "42501"
"""PostgreSQL's code."""


def make_reader(url: str | URL, users: Sequence[str] = ()) -> str:
    """Create the role `<database>_reader`, or renew its rights; returns its name.

    It cannot log in: `difflens sql` takes it on within a transaction, where the URL's user is one
    of its members. The URL's user becomes one, and so do `users`, who may be others than the
    administrator that makes roles. UsageError for SQLite, which has no roles, where the URL's user
    may not create one, and for a user that is not there.
    """
    if parse_url(url).get_backend_name() != "postgresql":
        raise UsageError("db reader: SQLite has no roles; questions open its file read-only")
    engine = open_engine(url)
    try:
        with engine.begin() as connection:
            return _make(connection, users)
    except ProgrammingError as error:
        words = str(error.orig).strip().split("\n", maxsplit=1)[0]
        raise UsageError(f"db reader: {shown_url(url)}: {words}{_mend(error, url)}") from None
    except OperationalError as error:
        raise UsageError(
            f"database.url: {shown_url(url)} cannot be reached: {database_failure(error)}"
        ) from None
    finally:
        engine.dispose()


def _make(connection: Connection, users: Sequence[str]) -> str:
    quote = connection.dialect.identifier_preparer.quote_identifier
    database, schema = connection.execute(text("SELECT current_database(), current_schema()")).one()
    name = f"{database}_reader"
    found = connection.execute(
        text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}
    ).first()
    role, place = quote(name), quote(schema)
    members = ", ".join(["CURRENT_USER", *map(quote, users)])
    statements = [] if found else [f"CREATE ROLE {role} NOLOGIN"]
    statements += [
        f"GRANT {role} TO {members}",
        f"GRANT USAGE ON SCHEMA {place} TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO {role}",
    ]
    # Tables of later versions are made by those who own today's.
    owners = connection.execute(
        text("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = :schema"),
        {"schema": schema},
    ).scalars()
    statements += [
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {quote(owner)} IN SCHEMA {place} "
        f"GRANT SELECT ON TABLES TO {role}"
        for owner in owners
    ]
    for statement in statements:
        connection.exec_driver_sql(statement)
    return name


def _mend(error: ProgrammingError, url: str | URL) -> str:
    """What to do where the study's user may not make roles."""
    if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
        return ""
    user = parse_url(url).username or "USER"
    return f"; as an administrator: difflens db reader ADMINISTRATORS_URL --to {user}"
