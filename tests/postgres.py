"""A PostgreSQL server for the tests: a given one, or a temporary cluster of Debian's binaries."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from requirements import missing
from sqlalchemy import create_engine, text
from sqlalchemy.engine import URL, make_url

_SYSTEM_USER = "postgres"


@contextmanager
def server_url() -> Iterator[URL]:
    """The URL of a running server; skips (or fails where required) when there is none."""
    given = os.environ.get("DIFFLENS_TEST_POSTGRES_URL")
    if given:
        yield make_url(given).set(drivername="postgresql+psycopg")
        return
    try:
        import psycopg  # noqa: F401
    except ImportError:
        missing("postgres", "psycopg is not installed")
    binaries = _binaries()
    if binaries is None:
        missing("postgres", "no server binaries under /usr/lib/postgresql; apt install postgresql")
    if os.geteuid() == 0 and not _has_system_user():
        missing("postgres", f"root may not run a server and there is no user {_SYSTEM_USER!r}")
    with _cluster(binaries) as url:
        yield url


@contextmanager
def fresh_database(server: URL, name: str, template: str = "template0") -> Iterator[URL]:
    """A new database, empty or a copy of another one."""
    admin = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with admin.connect() as connection:
            connection.execute(text(f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
        yield server.set(database=name)
        with admin.connect() as connection:
            connection.execute(text(f'DROP DATABASE "{name}" WITH (FORCE)'))
    finally:
        admin.dispose()


def _binaries() -> Path | None:
    """The newest installed release's folder."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: float(path.parent.name), default=None)


def _has_system_user() -> bool:
    try:
        pwd.getpwnam(_SYSTEM_USER)
    except KeyError:
        return False
    return shutil.which("runuser") is not None


@contextmanager
def _cluster(binaries: Path) -> Iterator[URL]:
    folder = Path(tempfile.mkdtemp(prefix="difflens-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, _SYSTEM_USER)
    data, port = folder / "data", _free_port()
    settings = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    try:
        _run(binaries / "initdb", "-D", data, "-U", "difflens", "-A", "trust", "-E", "UTF8",
             "--locale=C.UTF-8", "--no-sync")  # fmt: skip
        _run(binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", settings, "start")
        try:
            yield make_url(f"postgresql+psycopg://difflens@127.0.0.1:{port}/postgres")
        finally:
            _run(binaries / "pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(*command: str | Path) -> None:
    words = [str(word) for word in command]
    if os.geteuid() == 0:
        words = ["runuser", "-u", _SYSTEM_USER, "--", *words]
    # No pipe: the server would inherit it and keep it open.
    with tempfile.TemporaryFile("w+") as output:
        done = subprocess.run(words, stdout=output, stderr=output, cwd="/", timeout=120)
        output.seek(0)
        if done.returncode:
            raise RuntimeError(f"{words} failed: {output.read()}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
