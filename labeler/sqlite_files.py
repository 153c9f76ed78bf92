"""How a SQLite file can be opened: by whom it may be written, and where its newest rows lie.

A study's database keeps its newest commits in FILE-wal, which SQLite reads with the help of
FILE-shm. In a folder that may not be written SQLite cannot make the latter; without a log the
file itself is whole, and is read as one that nobody changes.
"""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from labeler.errors import WorkError

_LOG_VERSION_AT, _USES_LOG = 18, 2
"""Byte of a SQLite file's header, and its value where commits go to a log first."""


def may_write(path: Path) -> bool:
    """Whether this process may change a database: the file, and the files beside it."""
    path = path.resolve()
    beside = (_log(path), _index(path))
    if not _allowed(path, os.W_OK):
        return False
    return _allowed(path.parent, os.W_OK) or all(_allowed(each, os.W_OK) for each in beside)


def reading_options(path: Path) -> dict[str, str]:
    """Options of the URI by which a file is opened to be read, with every committed row.

    WorkError where rows lie in a log that cannot be read in this folder.
    """
    path = path.resolve()
    if may_write(path) or not _uses_log(path):
        return {"mode": "ro"}
    log, index = _log(path), _index(path)
    if not log.exists() or log.stat().st_size == 0:
        return {"mode": "ro", "immutable": "1"}
    if _allowed(log, os.R_OK) and _allowed(index, os.R_OK):
        return {"mode": "ro"}
    raise WorkError(
        f"{path}: its newest rows lie in {log.name}, which cannot be read in a folder that may not"
        " be written; copy both files to another folder, or close the programs that use the study"
    )


def file_uri(path: Path) -> str:
    """SQLite's URI of a file, without options."""
    return f"file:{quote(os.fsencode(path.absolute()))}"


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _index(path: Path) -> Path:
    return path.with_name(f"{path.name}-shm")


def _allowed(path: Path, right: int) -> bool:
    """Whether the user that this process acts as has a right; not so for what is not there."""
    effective = os.access in os.supports_effective_ids
    return os.access(path, right, effective_ids=effective)


def _uses_log(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            header = file.read(_LOG_VERSION_AT + 1)
    except OSError:
        return False
    return len(header) > _LOG_VERSION_AT and header[_LOG_VERSION_AT] == _USES_LOG
