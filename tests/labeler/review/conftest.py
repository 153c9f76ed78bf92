"""A study under review, on both databases and on SQLite alone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import serving
from requirements import missing
from review_studies import Study, copy_study, make_study

from labeler.store.engine import open_engine


@pytest.fixture(scope="session")
def seeded(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """The study on SQLite, to be copied."""
    path = tmp_path_factory.mktemp("seeded") / "study.db"
    shutil.copy(migrated_file, path)
    engine = open_engine(f"sqlite:///{path}")
    study = make_study(engine, f"sqlite:///{path}")
    engine.dispose()
    return study


@pytest.fixture
def study(backend: str, request: pytest.FixtureRequest) -> Study:
    """The study, once per backend."""
    if backend == "sqlite":
        return request.getfixturevalue("small")
    engine = request.getfixturevalue("engine")
    return make_study(engine, request.getfixturevalue("database_url"))


@pytest.fixture
def small(seeded: Study, tmp_path: Path) -> Iterator[Study]:
    """The study on SQLite."""
    copied = copy_study(seeded, tmp_path / "study.db")
    yield copied
    copied.engine.dispose()


@pytest.fixture(scope="module")
def chromium() -> Iterator[object]:
    """A running Chromium."""
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        missing("browser", "chromium is not installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def address(small: Study) -> Iterator[str]:
    """A server on the small study."""
    yield from serving(small)
