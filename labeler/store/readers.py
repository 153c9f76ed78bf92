"""The PostgreSQL role for `difflens sql`, which can only read."""

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

    The role cannot log in: `difflens sql` assumes it within a transaction, for which the URL's user
    must be a member. The URL's user and `users` become members. UsageError for SQLite, which has no
    roles, where the URL's user may not create one, and for an unknown user.
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
    # Default privileges cover tables that the present owner creates later.
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
    """Advice where the study's user may not create roles."""
    if getattr(error.orig, "sqlstate", None) != INSUFFICIENT_PRIVILEGE:
        return ""
    user = parse_url(url).username or "USER"
    return f"; as an administrator: difflens db reader ADMINISTRATORS_URL --to {user}"
