"""Parses, builds and shows database URLs, and finds the options for a SQLite file."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from labeler.errors import UsageError, WorkError
from labeler.store.secrets import is_secret_name

SQLITE_OPTIONS = frozenset({
    "cache", "cached_statements", "check_same_thread", "detect_types", "immutable",
    "isolation_level", "mode", "nolock", "psow", "timeout", "uri", "vfs",
})  # fmt: skip
"""Options that may follow `?` in a SQLite URL; any other `?` is part of the file's name."""
_NO_URL = "database.url: not a database URL; write sqlite:///FILE or postgresql://HOST/NAME"
_ESCAPES = str.maketrans({"%": "%25", "?": "%3F", "$": "%24"})
_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILE_URL = re.compile(
    r"sqlite(?:\+pysqlite)?://(?:/(?P<path>[^?]*))?(?:\?(?P<query>.*))?", re.DOTALL
)
_PASSWORD = re.compile(r"(://[^:/@?]*:)([^@]*)(@)")
_OPTION = re.compile(r"([?&][^=&]*=)([^&]*)()")


def expand_environment(text: str, key: str) -> str:
    """Replace `${NAME}` by the environment's value; UsageError names a variable that is not set."""
    return _VARIABLE.sub(lambda match: _value(match, key), text)


def parse_url(url: str | URL) -> URL:
    """The URL with `${NAME}` expanded and the driver named.

    UsageError for text that is no URL, an unknown database, and a SQLite path cut short by `?`.
    """
    if isinstance(url, str):
        url = _read(url)
    backend = url.get_backend_name()
    if backend == "postgresql":
        if "@" in (url.host or ""):
            raise UsageError("database.url: '@' stands in the user or the password; write it %40")
        return _with_password_in_its_place(url.set(drivername="postgresql+psycopg"))
    if backend != "sqlite":
        raise UsageError(f"database.url: {backend!r} is not supported; use sqlite or postgresql")
    return url


def sqlite_file(url: str | URL) -> Path | None:
    """The file of a SQLite URL; None for a database in memory or on a server."""
    parsed = parse_url(url)
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        return None
    database = str(parsed.database)
    return Path(unquote(database.removeprefix("file:")) if "uri" in parsed.query else database)


def resolve_url(url: str, folder: Path) -> URL:
    """A URL of a config: a relative SQLite path lies in `folder`, `~` is the user's own."""
    parsed = parse_url(url)
    path = sqlite_file(parsed)
    if path is None:
        return parsed
    return URL.create("sqlite", database=str((folder / path.expanduser()).resolve()))


def url_of_file(path: Path) -> str:
    """A SQLite file's URL as text that `parse_url` reads as this very file."""
    return f"sqlite:///{str(path).translate(_ESCAPES)}"


def shown_url(url: str | URL) -> str:
    """The URL without passwords, for printing; `parse_url` can read it."""
    path = sqlite_file(url)
    if path is not None:
        return url_of_file(path)
    parsed = parse_url(url)
    query = {key: "***" if is_secret_name(key) else value for key, value in parsed.query.items()}
    shown = parsed.set(drivername=parsed.get_backend_name(), query=query)
    return shown.render_as_string(hide_password=True)


def url_in_a_command(url: str | URL) -> str:
    """The URL quoted for a command line that a user copies."""
    return shlex.quote(shown_url(url))


def _read(text: str) -> URL:
    """Text as a URL, its variables put in where they cannot move into another part of it."""
    file = _FILE_URL.fullmatch(text)
    if file is not None:
        return _read_file(file["path"], file["query"])
    readable = _with_variables(text)
    if _FILE_URL.fullmatch(readable):
        return _read(readable)
    try:
        return make_url(readable)
    except (ArgumentError, ValueError):
        raise UsageError(_NO_URL) from None


def _read_file(path: str | None, query: str | None) -> URL:
    """A SQLite URL: read here, as versions of SQLAlchemy differ on escapes in the path."""
    options = dict(parse_qsl(query or "", keep_blank_values=True))
    if query is not None and not (options and SQLITE_OPTIONS.issuperset(options)):
        raise UsageError(
            "database.url: '?' begins the options of a URL; write %3F for one in a file's path"
        )
    if path is not None:
        path = _VARIABLE.sub(lambda match: quote(_value(match)), path)
        # What SQLite calls a URI it decodes itself.
        path = path if "uri" in options else unquote(path)
    return URL.create("sqlite", database=path, query=options)


def _with_variables(text: str) -> str:
    """A server's URL with the environment in it; what stands for a password means itself.

    Escapes in a value (`%40`) are left, as they are in a URL that is written out.
    """

    def quoted(match: re.Match[str]) -> str:
        before, value, after = match.groups()
        value = _VARIABLE.sub(lambda found: quote(_value(found), safe="%"), value)
        return f"{before}{value}{after}"

    for place in (_PASSWORD, _OPTION):
        text = place.sub(quoted, text)
    return expand_environment(text, "database.url")


def _value(match: re.Match[str], key: str = "database.url") -> str:
    name = match[1]
    if name not in os.environ:
        raise UsageError(f"{key}: environment variable {name} is not set; export it first")
    return os.environ[name]


def _with_password_in_its_place(url: URL) -> URL:
    """The URL without `?password=`, which SQLAlchemy would show wherever it shows a URL."""
    given = url.query.get("password")
    if given is None:
        return url
    value = given if isinstance(given, str) else given[-1]
    return url.difference_update_query(["password"]).set(password=value)


_LOG_VERSION_AT, _USES_LOG = 18, 2
"""Byte of a SQLite file's header, and its value where commits go to a log first."""


def may_write(path: Path) -> bool:
    """Whether this process may change a database: the file, and the files next to it."""
    path = path.resolve()
    companions = (_log(path), _index(path))
    if not _allowed(path, os.W_OK):
        return False
    return _allowed(path.parent, os.W_OK) or all(_allowed(each, os.W_OK) for each in companions)


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
