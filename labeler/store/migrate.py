"""Upgrades, downgrades and checks a database, in one transaction with views and triggers."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import CheckConstraint, Connection, Engine, event, inspect, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DatabaseError, DBAPIError, OperationalError

from labeler.errors import UsageError, WorkError, doing
from labeler.store.database_url import shown_url, sqlite_file, url_in_a_command
from labeler.store.engine import (
    READ_ONLY_OPTION,
    database_failure,
    is_damage,
    open_engine,
    require_existing,
)
from labeler.store.schema import metadata
from labeler.store.triggers import create_triggers, drop_triggers, trigger_names
from labeler.store.views import (
    VIEWS,
    create_views,
    definitions_sha256,
    drop_views,
    installed_definitions_sha256,
    restore_foreign_views,
)

_PACKAGE = Path(__file__).resolve().parents[1]


def scripts_folder() -> Path:
    """The folder of env.py and versions/; WorkError when the installation lacks it."""
    for folder in (_PACKAGE / "migrations", _PACKAGE.parent / "migrations"):
        if (folder / "env.py").is_file():
            return folder
    raise WorkError("the installation lacks its migrations; install difflens again")


def alembic_config(url: str | URL | None = None) -> Config:
    """Alembic's config, built here so that no alembic.ini is needed."""
    config = Config()
    config.set_main_option("script_location", str(scripts_folder()).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    if url is not None:
        config.attributes["url"] = url
    return config


def scripts() -> ScriptDirectory:
    """The migrations."""
    return ScriptDirectory.from_config(alembic_config())


def head_revision() -> str:
    """The newest revision this version of difflens knows."""
    head = scripts().get_current_head()
    if head is None:
        raise WorkError("the installation has no migrations; install difflens again")
    return head


def is_known(revision: str) -> bool:
    """Whether this version of difflens has that revision."""
    return any(script.revision == revision for script in scripts().walk_revisions())


UNRELEASED = frozenset(f"{number:04d}" for number in range(1, 10))
"""Revisions of databases made before 0.1.0; no migration leads on from them."""


@dataclass(frozen=True)
class DatabaseState:
    """State of a database with respect to migrations."""

    revision: str | None
    """Its revision; None where it has none."""
    is_empty: bool
    """No table at all."""
    definitions_sha256: str | None
    """Hash of its views and triggers; None where they are missing."""

    @property
    def is_current(self) -> bool:
        """Whether it matches this version."""
        return (self.revision, self.definitions_sha256) == (head_revision(), definitions_sha256())


def current(url: str | URL | Engine) -> str | None:
    """The database's revision; None for an empty one. UsageError when it is not there."""
    with _reading(url) as connection:
        return _state(connection).revision


def upgrade(url: str | URL, backup: bool = True) -> Path | None:
    """Upgrade a database to the newest revision; a missing SQLite file is created.

    Returns the path of the backup next to a SQLite file with data that was not current, else None.
    UsageError for an unknown revision; the database is not touched then.
    """
    path = sqlite_file(url)
    if path is not None and not path.exists():
        _run_upgrade(url)
        return None
    state = _own_state(url)
    if state.is_current:
        return None
    must_copy = backup and state.revision not in (None, head_revision())
    copy = _back_up(path, state.revision) if must_copy and path is not None else None
    _run_upgrade(url)
    return copy


def downgrade(url: str | URL, revision: str, backup: bool = True) -> Path | None:
    """Take a database back to `revision` (`base` = no tables); returns the backup's path."""
    state = _own_state(url)
    path = sqlite_file(url)
    copy = _back_up(path, state.revision) if backup and path and state.revision else None
    try:
        command.downgrade(alembic_config(url), revision)
    except CommandError as error:
        raise UsageError(f"db downgrade: {error}") from None
    return copy


def require_current(url: str | URL | Engine) -> None:
    """Raise UsageError, with the command to run, unless the database is at the newest revision."""
    state = _own_state(url)
    if state.is_current:
        return
    shown, head = _shown(url), head_revision()
    if state.revision is None:
        found = "has no tables yet"
    elif state.revision == head:
        found = "has the views of another version of difflens"
    else:
        found = f"is at revision {state.revision}, this version of difflens needs {head}"
    command = f"difflens db upgrade {url_in_a_command(_plain(url))}"
    raise UsageError(f"database.url: {shown} {found}; run `{command}`")


def check(url: str | URL) -> list[str]:
    """Differences between the database and this version's schema; an empty list is clean.

    WorkError where SQLite finds its file damaged, UsageError for a database made before 0.1.0.
    """
    with _reading(url) as connection:
        _refuse_damage(connection, _shown(url))
        _refuse_unreleased(_state(connection), _shown(url))
        return _differences(connection)


def _run_upgrade(url: str | URL) -> None:
    try:
        command.upgrade(alembic_config(url), "head")
    except OperationalError as error:
        raise WorkError(f"db upgrade: {shown_url(url)}: {error.orig}") from error


def _back_up(path: Path, revision: str | None) -> Path:
    """Copy a SQLite file with VACUUM INTO, which sees only committed pages."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    target = path.with_name(f"{path.name}.backup-{revision}-{stamp}")
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("VACUUM INTO ?", (str(target),))
    except sqlite3.OperationalError as error:
        raise WorkError(
            f"{path}: no backup can be written next to it ({error}); nothing was changed"
        ) from None
    return target


def _own_state(url: str | URL | Engine) -> DatabaseState:
    """The state of a database that this version can bring to its revision, else UsageError."""
    with _reading(url) as connection:
        state = _state(connection)
    shown = _shown(url)
    _refuse_unreleased(state, shown)
    if state.revision is None and not state.is_empty:
        raise UsageError(
            f"database.url: {shown} holds tables of something else; name another file or schema"
        )
    if state.revision is not None and not is_known(state.revision):
        raise UsageError(
            f"database.url: {shown} is at revision {state.revision}, which this version of"
            f" difflens does not know (its newest is {head_revision()}); upgrade difflens"
        )
    return state


def _state(connection: Connection) -> DatabaseState:
    return DatabaseState(
        revision=MigrationContext.configure(connection).get_current_revision(),
        is_empty=set(inspect(connection).get_table_names()) <= {"alembic_version"},
        definitions_sha256=installed_definitions_sha256(connection),
    )


@contextmanager
def _reading(url: str | URL | Engine) -> Iterator[Connection]:
    """A connection to an existing database; a one-line error where it cannot be read."""
    if isinstance(url, Engine):
        with _readable(url) as connection:
            yield connection
        return
    require_existing(url)
    engine = open_engine(url)
    try:
        with _readable(engine) as connection:
            yield connection
    finally:
        engine.dispose()


@contextmanager
def _readable(engine: Engine) -> Iterator[Connection]:
    """A read-only connection; a one-line error where file or server does not allow it."""
    try:
        with engine.execution_options(**{READ_ONLY_OPTION: True}).connect() as connection:
            yield connection
    except OperationalError as error:
        if engine.dialect.name == "sqlite":
            raise WorkError(f"{_shown(engine)}: {_first_line(error)}") from error
        raise UsageError(
            f"database.url: {_shown(engine)} cannot be reached: {_first_line(error)}"
        ) from None
    except DatabaseError as error:
        if is_damage(error):
            raise WorkError(f"{_shown(engine)}: {database_failure(error)}") from None
        raise UsageError(
            f"database.url: {_shown(engine)} cannot be read as a database: {_first_line(error)}"
        ) from None


def _refuse_damage(connection: Connection, shown: str) -> None:
    """WorkError with the damage that SQLite's quick check finds."""
    if connection.dialect.name != "sqlite":
        return
    found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
    if found != "ok":
        words = " ".join(str(found).split())
        raise WorkError(f"{shown}: {words}; the file is damaged; restore a backup")


def _refuse_unreleased(state: DatabaseState, shown: str) -> None:
    if state.revision in UNRELEASED:
        raise UsageError(
            f"database.url: {shown} was made before difflens 0.1.0 (revision {state.revision}) and"
            " cannot be upgraded; name a new database, or move this one away, and run the study"
            " again"
        )


def _first_line(error: DatabaseError) -> str:
    """First line of the driver's message, without statement and advice."""
    return str(error.orig).strip().split("\n", maxsplit=1)[0]


def _shown(url: str | URL | Engine) -> str:
    return shown_url(_plain(url))


def _plain(url: str | URL | Engine) -> str | URL:
    return url.url if isinstance(url, Engine) else url


def _differences(connection: Connection) -> list[str]:
    context = MigrationContext.configure(
        connection, opts={"compare_type": True, "compare_server_default": True}
    )
    found = [str(difference) for difference in compare_metadata(context, metadata)]
    inspector = inspect(connection)
    tables = set(inspector.get_table_names())
    for table in metadata.sorted_tables:
        if table.name not in tables:
            continue
        declared = {
            str(item.name) for item in table.constraints if isinstance(item, CheckConstraint)
        }
        present = {str(row["name"]) for row in inspector.get_check_constraints(table.name)}
        found += [f"missing CHECK {name} on {table.name}" for name in declared - present]
        found += [f"unknown CHECK {name} on {table.name}" for name in present - declared]
    views = set(inspector.get_view_names())
    found += [f"missing view {view.name}" for view in VIEWS if view.name not in views]
    if installed_definitions_sha256(connection) != definitions_sha256():
        found.append("the views or triggers are of another version; run `difflens db upgrade`")
    missing = trigger_names(connection.dialect.name) - _present_triggers(connection)
    found += [f"missing trigger {name}" for name in sorted(missing)]
    return found


def _present_triggers(connection: Connection) -> set[str]:
    if connection.dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
    else:
        query = (
            "SELECT t.tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid"
            " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = current_schema()"
        )
    return set(connection.execute(text(query)).scalars())


@contextmanager
def opened(database_url: URL, create: bool = False) -> Iterator[Engine]:
    """A study's database: migrated first if `create`, else required to be current.

    Raises WorkError, also inside the block, where the database fails: disk full, connection lost.
    """
    with doing(f"opening {shown_url(database_url)}"):
        if create:
            upgrade(database_url)
        engine = open_engine(database_url)
    try:
        require_current(engine)
        yield engine
    except DBAPIError as error:
        if not (
            isinstance(error, OperationalError) or error.connection_invalidated or is_damage(error)
        ):
            raise
        shown, failure = shown_url(database_url), database_failure(error)
        raise WorkError(f"{shown}: {failure}; what was committed is kept") from error
    finally:
        engine.dispose()


_ADVISORY_LOCK = 7_345_201_906


@contextmanager
def guarded_connection(url: str | URL) -> Iterator[Connection]:
    """A connection for migrations; everything is committed at the end or rolled back."""
    engine = open_engine(url, create=True)
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _foreign_keys_off)
    try:
        with engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(
                    text("SELECT pg_advisory_xact_lock(:key)"), {"key": _ADVISORY_LOCK}
                )
            drop_triggers(connection)
            foreign_views = drop_views(connection)
            yield connection
            if _revision(connection) == head_revision():
                create_triggers(connection)
                create_views(connection)
                restore_foreign_views(connection, foreign_views)
            _check_foreign_keys(connection)
    finally:
        engine.dispose()


def _foreign_keys_off(connection: object, _record: object) -> None:
    connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[attr-defined]


def _revision(connection: Connection) -> str | None:
    return MigrationContext.configure(connection).get_current_revision()


def _check_foreign_keys(connection: Connection) -> None:
    if connection.dialect.name != "sqlite":
        return
    broken = connection.execute(text("PRAGMA foreign_key_check")).all()
    if broken:
        tables = ", ".join(sorted({row[0] for row in broken}))
        raise WorkError(f"migration: {len(broken)} rows lost their parent in {tables}; undone")
