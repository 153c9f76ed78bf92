"""A fresh database for each test, on SQLite and on PostgreSQL, and studies to begin with."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from postgres import fresh_database
from published_table import write_table
from shared import copied_once
from sqlalchemy import Engine
from sqlalchemy.engine import URL
from taxonomy_studies import TWO_LEVELS, study_in
from tiny_study import (
    TinyStudy,
    finished_study,
    own_cache,
    tiny_cache,
    tiny_model_folder,
    write_study,
)

from labeler.cli.main import run
from labeler.store import migrate
from labeler.store.engine import open_engine

__all__ = ["finished_study", "own_cache", "tiny_cache", "tiny_model_folder"]
BACKENDS = ("sqlite", pytest.param("postgres", marks=pytest.mark.postgres))


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """Each database in turn."""
    return str(request.param)


@pytest.fixture
def empty_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without tables, once per backend."""
    if backend == "sqlite":
        yield f"sqlite:///{tmp_path / 'difflens.db'}"
        return
    server = request.getfixturevalue("postgres_server")
    with fresh_database(server, f"t_{uuid.uuid4().hex}") as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file at the newest revision, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "difflens.db"
    migrate.upgrade(f"sqlite:///{path}")
    return path


@pytest.fixture(scope="session")
def migrated_database(postgres_server: URL) -> Iterator[str]:
    """The name of a PostgreSQL database at the newest revision, to be copied."""
    name = f"t_template_{uuid.uuid4().hex}"
    with fresh_database(postgres_server, name) as url:
        migrate.upgrade(url)
        yield name


@pytest.fixture
def database_url(backend: str, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database at the newest revision, once per backend."""
    if backend == "sqlite":
        path = tmp_path / "difflens.db"
        shutil.copy(request.getfixturevalue("migrated_file"), path)
        yield f"sqlite:///{path}"
        return
    server = request.getfixturevalue("postgres_server")
    template = request.getfixturevalue("migrated_database")
    with fresh_database(server, f"t_{uuid.uuid4().hex}", template) as url:
        yield url.render_as_string(hide_password=False)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """An engine on a database at the newest revision, once per backend."""
    engine = open_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_url(tmp_path: Path, migrated_file: Path) -> str:
    """The URL of a SQLite database at the newest revision."""
    path = tmp_path / "study.db"
    shutil.copy(migrated_file, path)
    return f"sqlite:///{path}"


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[Engine]:
    """An engine on a SQLite database at the newest revision."""
    engine = open_engine(sqlite_url)
    yield engine
    engine.dispose()


@pytest.fixture
def untouched(tiny_model_folder: Path, tmp_path: Path) -> TinyStudy:
    """A study that nothing was done in."""
    return write_study(tmp_path / "study", tiny_model_folder)


@pytest.fixture(scope="session")
def imported_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study without models, with the published table in its database; to be copied."""

    def write(folder: Path) -> None:
        assert run(["init", str(folder / "study.toml")]) == 0
        table = write_table(folder / "latents.csv", "mathematics")
        assert run(["import", str(folder / "study.toml"), str(table)]) == 0

    return copied_once(tmp_path_factory, "imported", write)


@pytest.fixture
def imported(imported_folder: Path, tmp_path: Path) -> Path:
    """A study without models, with the published table in its database."""
    shutil.copytree(imported_folder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "study.toml"


@pytest.fixture(scope="session")
def categorised_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of explanations that lie in categories of two levels; to be copied."""

    def write(folder: Path) -> None:
        path = study_in(folder, TWO_LEVELS)
        assert run(["import", str(path), str(folder / "latents.csv")]) == 0
        assert run(["categorize", str(path)]) == 0

    return copied_once(tmp_path_factory, "categorised", write)


@pytest.fixture
def categorised(categorised_folder: Path, tmp_path: Path) -> Path:
    """A study of explanations that lie in categories of two levels."""
    shutil.copytree(categorised_folder, tmp_path, dirs_exist_ok=True)
    return tmp_path / "study.toml"
