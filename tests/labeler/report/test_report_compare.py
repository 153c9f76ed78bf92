"""Two studies side by side."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from report_studies import build_imported, build_planted, report_run
from sqlalchemy import Engine, update

from labeler.errors import UsageError
from labeler.report.build import ReportOptions, build_report
from labeler.report.compare import (
    SideBySide,
    print_side_by_side,
    read_reported,
    side_by_side,
    summary,
)
from labeler.report.tables import make_console
from labeler.store.engine import open_engine, write_session
from labeler.store.schema import Crosscoder

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reported_file(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The database of the planted study with a report, built once."""
    folder = tmp_path_factory.mktemp("reported")
    shutil.copy(migrated_file, folder / "difflens.db")
    engine = open_engine(f"sqlite:///{folder / 'difflens.db'}")
    build_planted(engine)
    build_report(engine, ReportOptions("one"), folder / "report", report_run(engine))
    engine.dispose()
    return folder / "difflens.db"


@pytest.fixture
def studies(reported_file: Path, tmp_path: Path) -> list[Engine]:
    """The planted study twice, each with a report; the second by another crosscoder."""
    engines = []
    for name in ("one", "two"):
        shutil.copy(reported_file, tmp_path / f"{name}.db")
        engine = open_engine(f"sqlite:///{tmp_path / f'{name}.db'}")
        with write_session(engine) as session:
            session.execute(update(Crosscoder).values(sha256=name[:2] * 32))
        engines.append(engine)
    return engines


def paired(studies: list[Engine]) -> SideBySide:
    (pair,) = side_by_side(read_reported(studies[0], "one"), read_reported(studies[1], "two"))
    return pair


def test_other_crosscoders_of_the_same_models_are_combined_as_seeds(studies: list[Engine]) -> None:
    pair = paired(studies)
    assert pair.are_seeds
    safety = next(row for row in pair.rows if row.category == "safety")
    assert safety.first is not None
    assert safety.combined is not None
    assert safety.combined.n_seeds == 2
    assert safety.combined.between == 0
    assert safety.combined.ci_low < safety.combined.percent_change < safety.combined.ci_high
    assert safety.signs == "same"
    assert safety.difference_p == 1.0


def test_the_same_crosscoder_twice_is_no_second_seed(studies: list[Engine]) -> None:
    with write_session(studies[1]) as session:
        session.execute(update(Crosscoder).values(sha256="on" * 32))
    pair = paired(studies)
    assert not pair.are_seeds
    assert all(row.combined is None for row in pair.rows)


def test_the_terminal_and_the_page_show_both(studies: list[Engine], tmp_path: Path) -> None:
    pair = paired(studies)
    stream = io.StringIO()
    print_side_by_side([pair], make_console(stream, width=160))
    printed = stream.getvalue()
    assert "one next to two" in printed
    assert "safety" in printed
    assert "as two seeds" in printed
    files = build_report(
        studies[0], ReportOptions("one"), tmp_path / "again", report_run(studies[0]), [pair]
    )
    page = files.html.read_text(encoding="utf-8")
    assert "Comparison with another study" in page
    assert page.count("data-compared=") == len(pair.rows)


def test_a_study_without_a_report_is_refused_with_the_mend(
    sqlite_engine: Engine, studies: list[Engine]
) -> None:
    build_imported(sqlite_engine)
    with pytest.raises(UsageError, match="no report yet"):
        read_reported(sqlite_engine, "other.toml")


def test_comparisons_of_one_study_each_pair_whatever_their_names(
    sqlite_engine: Engine, studies: list[Engine], tmp_path: Path
) -> None:
    build_imported(sqlite_engine)
    build_report(sqlite_engine, ReportOptions("p"), tmp_path / "p", report_run(sqlite_engine))
    first, second = read_reported(studies[0], "one"), read_reported(sqlite_engine, "paper")
    (pair,) = side_by_side(first, second)
    assert not pair.are_seeds
    with pytest.raises(UsageError, match="no comparison of the two studies has the same name"):
        side_by_side([*first, *first], second)


def test_a_category_renamed_in_between_is_paired(studies: list[Engine]) -> None:
    first, second = (read_reported(engine, "x")[0] for engine in studies)
    rows = tuple(
        replace(row, category="harm") if row.category == "safety" else row
        for row in second.table.rows
    )
    newer = replace(
        second,
        table=replace(second.table, rows=rows),
        identity=replace(second.identity, taxonomy_sha256="new"),
    )
    (apart,) = side_by_side([first], [newer])
    assert {"safety", "harm"} <= {row.category for row in apart.rows}
    newer = replace(newer, renames={first.identity.taxonomy_sha256: {"safety": "harm"}})
    for pair in (*side_by_side([first], [newer]), *side_by_side([newer], [first])):
        (row,) = [row for row in pair.rows if row.category in ("safety", "harm")]
        assert row.category == "harm"
        assert row.first is not None
        assert row.second is not None
        assert "safety is harm now" in summary(pair)
