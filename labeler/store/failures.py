"""What a database said when it could not go on, in words that name the mend."""

from __future__ import annotations

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
    name = getattr(error.orig, "sqlite_errorname", "")
    mends = [mend for start, mend in _SQLITE_MENDS.items() if name.startswith(start)]
    return "; ".join([words, *mends])
