"""The PostgreSQL role under which questions are asked: it may read and nothing else."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import ProgrammingError

from labeler.errors import UsageError
from labeler.store.engine import open_engine, parse_url, shown_url


def make_reader(url: str | URL) -> str:
    """Create the role `<database>_reader`, or renew its rights; returns its name.

    It cannot log in: `difflens sql` takes it on within a transaction. UsageError for SQLite, which
    has no roles, and where the URL's user may not create one.
    """
    if parse_url(url).get_backend_name() != "postgresql":
        raise UsageError("db reader: SQLite has no roles; questions open its file read-only")
    engine = open_engine(url)
    quote = engine.dialect.identifier_preparer.quote_identifier
    try:
        with engine.begin() as connection:
            database, schema = connection.execute(
                text("SELECT current_database(), current_schema()")
            ).one()
            name = f"{database}_reader"
            found = connection.execute(
                text("SELECT 1 FROM pg_roles WHERE rolname = :name"), {"name": name}
            ).first()
            role, place = quote(name), quote(schema)
            statements = [] if found else [f"CREATE ROLE {role} NOLOGIN"]
            statements += [
                f"GRANT {role} TO CURRENT_USER",
                f"GRANT USAGE ON SCHEMA {place} TO {role}",
                f"GRANT SELECT ON ALL TABLES IN SCHEMA {place} TO {role}",
                f"ALTER DEFAULT PRIVILEGES IN SCHEMA {place} GRANT SELECT ON TABLES TO {role}",
            ]
            for statement in statements:
                connection.exec_driver_sql(statement)
            return name
    except ProgrammingError as error:
        words = str(error.orig).strip().split("\n", maxsplit=1)[0]
        raise UsageError(f"db reader: {shown_url(url)}: {words}") from None
    finally:
        engine.dispose()
