"""What a database said when it could not go on, in words that name the mend."""

from __future__ import annotations

import sqlite3

from sqlalchemy.exc import DBAPIError

_LOCAL = "put the study on a local disk, or in PostgreSQL"
_SQLITE_MENDS = {
    "SQLITE_BUSY": "another process has kept it locked; wait for it, or stop it",
    "SQLITE_CORRUPT": "the file is damaged; restore a backup",
    "SQLITE_FULL": "make room on the disk",
    "SQLITE_IOERR": f"the file system failed, as network shares without locks do; {_LOCAL}",
    "SQLITE_NOLFS": _LOCAL,
    "SQLITE_PROTOCOL": f"the file system does not lock files; {_LOCAL}",
    "SQLITE_READONLY": "the file or its folder may not be written; give yourself the right to",
}
"""By SQLite's name of the error; longer names (SQLITE_IOERR_LOCK) begin with these."""


def database_failure(error: DBAPIError) -> str:
    """One line: what the driver said, and what to do about it."""
    words = str(error.orig).strip().split("\n", maxsplit=1)[0]
    if error.connection_invalidated:
        return f"{words}; the connection is lost, the same command goes on once it is back"
    return "; ".join([words, *_mends(error.orig)])


def is_damage(error: BaseException) -> bool:
    """Whether SQLite found its file cut short or overwritten."""
    driver = error.orig if isinstance(error, DBAPIError) else error
    return _sqlite_name(driver).startswith("SQLITE_CORRUPT")


def is_locked(error: BaseException) -> bool:
    """Whether another program kept a lock for longer than was waited."""
    driver = error.orig if isinstance(error, DBAPIError) else error
    is_unavailable = getattr(driver, "sqlstate", None) == "55P03"
    return is_unavailable or _sqlite_name(driver).startswith("SQLITE_BUSY")


def unforeseen_failure(error: Exception) -> str | None:
    """One line on a database's error that nobody caught; None for any other error.

    Only for what the database itself failed at: a statement it refuses is a defect to be seen.
    """
    if isinstance(error, DBAPIError):
        foreseen = error.connection_invalidated or _is_known(error.orig)
        return f"database: {database_failure(error)}" if foreseen else None
    if isinstance(error, sqlite3.Error) and _is_known(error):
        return f"database: {'; '.join([str(error), *_mends(error)])}"
    return None


def _is_known(error: BaseException | None) -> bool:
    return bool(_mends(error))


def _mends(error: BaseException | None) -> list[str]:
    name = _sqlite_name(error)
    return [mend for start, mend in _SQLITE_MENDS.items() if name.startswith(start)]


def _sqlite_name(error: BaseException | None) -> str:
    return str(getattr(error, "sqlite_errorname", ""))
