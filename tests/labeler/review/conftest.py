"""A study under review, on both databases and on SQLite alone."""

from __future__ import annotations

import pytest
from review_studies import Study, make_study
from sqlalchemy import Engine


@pytest.fixture
def study(engine: Engine, database_url: str) -> Study:
    """The study, once per backend."""
    return make_study(engine, database_url)


@pytest.fixture
def small(sqlite_engine: Engine, sqlite_url: str) -> Study:
    """The study on SQLite."""
    return make_study(sqlite_engine, sqlite_url)
