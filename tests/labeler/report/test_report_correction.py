"""The judge's errors taken out, from reviews in the database."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from report_studies import report_run
from reviewed_study import build_reviewed
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from labeler.report.answer import check_sentences
from labeler.report.build import ReportFiles, ReportOptions, build_report
from labeler.report.stored import read_stored_tables
from labeler.store.engine import read_session
from labeler.store.schema import CategoryCorrection, JudgeCorrection


def reported(engine: Engine, folder: Path) -> ReportFiles:
    return build_report(engine, ReportOptions("reviewed"), folder / "report", report_run(engine))


@pytest.mark.slow
def test_the_judges_surplus_is_taken_out_of_both_shares(engine: Engine, tmp_path: Path) -> None:
    build_reviewed(engine)
    files = reported(engine, tmp_path)
    with Session(engine) as session:
        judged = session.scalars(select(JudgeCorrection)).one()
        row = session.scalars(
            select(CategoryCorrection).where(CategoryCorrection.category == "safety")
        ).one()
        shown = (
            session.execute(text("SELECT * FROM v_category_correction WHERE category = 'safety'"))
            .mappings()
            .one()
        )
    assert judged.refusal is None
    assert (judged.target_reviewed, judged.target_judged) == (75, 150)
    assert (judged.target_is_whole, judged.reference_is_whole) == (False, False)
    # The judge says 60 and 30 of 150; reviewers moved a third of those they saw to none.
    assert row.target_judge_share == pytest.approx(60 / 150)
    assert row.target_share == pytest.approx(60 / 150 * 2 / 3, abs=0.01)
    assert row.reference_share == pytest.approx(30 / 150 * 2 / 3, abs=0.01)
    assert (row.target_positives, row.target_hits) == (20, 20)
    assert row.target_share_low < row.target_share < row.target_share_high
    assert shown["percent_change"] == row.percent_change
    assert shown["is_stale"] in (False, 0)
    with (files.folder / "judge_correction.csv").open(newline="") as file:
        written = {line["category"]: line for line in csv.DictReader(file)}
    assert float(written["safety"]["target_share"]) == row.target_share
    page = files.html.read_text(encoding="utf-8")
    assert "From 75 and 75 latents reviewed blind" in page
    assert "Judge against human" in page


@pytest.mark.slow
def test_judge_labels_are_used_and_never_the_effective_ones(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_reviewed(sqlite_engine, n_manual=70)
    files = reported(sqlite_engine, tmp_path)
    with Session(sqlite_engine) as session:
        row = session.scalars(
            select(CategoryCorrection).where(CategoryCorrection.category == "safety")
        ).one()
    # Decisions with the label in view move the effective share, but not this one.
    assert row.target_judge_share == pytest.approx(60 / 150)
    effective = next(one for one in files.tables[0].rows if one.category == "safety")
    assert effective.target_count < 60


@pytest.mark.slow
def test_too_few_blind_reviews_are_refused_by_number(sqlite_engine: Engine, tmp_path: Path) -> None:
    build_reviewed(sqlite_engine, n_blind=40, n_manual=70)
    files = reported(sqlite_engine, tmp_path)
    checks = files.tables[0].checks
    assert checks is not None
    assert checks.refusal is not None
    assert "target side: 40 of 150 latents reviewed blind" in checks.refusal
    assert "60 are needed" in checks.refusal
    assert "Not corrected." in files.html.read_text(encoding="utf-8")
    assert not (files.folder / "judge_correction.csv").exists()
    with Session(sqlite_engine) as session:
        assert session.scalars(select(CategoryCorrection)).all() == []


@pytest.mark.slow
def test_a_wholly_reviewed_comparison_needs_no_correction(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_reviewed(sqlite_engine, n_blind=75, n_manual=75)
    files = reported(sqlite_engine, tmp_path)
    checks = files.tables[0].checks
    assert checks is not None
    assert checks.is_whole == (True, True)
    assert "no judge error is left" in check_sentences(checks)[0]
    with Session(sqlite_engine) as session:
        row = session.scalars(
            select(CategoryCorrection).where(CategoryCorrection.category == "safety")
        ).one()
    safety = next(one for one in files.tables[0].rows if one.category == "safety")
    assert row.target_share == safety.target_share
    assert row.ci_low == pytest.approx(safety.ci_low)


@pytest.mark.slow
def test_checks_read_back_equal_those_that_were_computed(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_reviewed(sqlite_engine)
    files = reported(sqlite_engine, tmp_path)
    with read_session(sqlite_engine) as session:
        assert read_stored_tables(session) == list(files.tables)
