from __future__ import annotations

from pathlib import Path

import pytest
from report_studies import PAPER_COUNTS, build_imported, build_planted, report_run
from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.report.build import ReportOptions, build_report
from labeler.report.model import CategoryRow, ChangeTable
from labeler.report.stored import read_stored_tables
from labeler.store.engine import read_session, write_session
from labeler.store.judging import LabelRow, add_judge_label
from labeler.store.schema import CategoryChangeStatistic, EffectiveLabel, JudgeLabel

PUBLISHED = {
    "safety": "+32.8%",
    "multilingual": "+43.8%",
    "instruction-following": "+151.7%",
    "factual-verification": "+88.8%",
    "hallucination": "-68.5%",
    "self-reference": "-44.1%",
    "query-classification": "-37.1%",
    "structured-output": "-37.1%",
    "code-generation": "-28.1%",
    "technical": "-17.4%",
}


def report(engine: Engine, folder: Path, options: ReportOptions | None = None) -> ChangeTable:
    """The change table of a report just built."""
    files = build_report(engine, options or ReportOptions(), folder, report_run(engine))
    return files.tables[0]


def by_slug(table: ChangeTable) -> dict[str, CategoryRow]:
    return {row.category: row for row in table.rows}


@pytest.mark.slow
def test_the_published_percentages_come_out_to_the_decimal(engine: Engine, tmp_path: Path) -> None:
    build_imported(engine)
    rows = by_slug(report(engine, tmp_path / "report"))
    assert {slug: rows[slug].printed_change for slug in PUBLISHED} == PUBLISHED
    assert {(row.target_total, row.reference_total) for row in rows.values()} == {(89, 112)}


def test_none_of_the_published_changes_is_called_significant(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_imported(sqlite_engine)
    rows = by_slug(report(sqlite_engine, tmp_path / "report"))
    verdicts = {slug: rows[slug].verdict for slug in PUBLISHED}
    assert set(verdicts.values()) == {"no evidence", "too few to say"}
    assert verdicts["instruction-following"] == "too few to say"
    assert verdicts["safety"] == "no evidence"
    assert min(row.q_value or 0 for row in rows.values()) > 0.5


@pytest.mark.slow
def test_every_row_is_stored_under_the_reports_run(engine: Engine, tmp_path: Path) -> None:
    build_imported(engine)
    table = report(engine, tmp_path / "report")
    with Session(engine) as session:
        stored = session.execute(text("SELECT * FROM v_category_change_statistic")).mappings().all()
    assert len(stored) == len(table.rows)
    assert {row["report_run_id"] for row in stored} == {table.report_run_id}
    assert not any(row["is_stale"] for row in stored)


@pytest.mark.slow
def test_the_same_run_replaces_its_own_rows(sqlite_engine: Engine, tmp_path: Path) -> None:
    build_imported(sqlite_engine)
    run_id = report_run(sqlite_engine)
    for _ in range(2):
        files = build_report(sqlite_engine, ReportOptions(), tmp_path / "report", run_id)
    with Session(sqlite_engine) as session:
        stored = session.scalars(select(CategoryChangeStatistic)).all()
    leading = [row for row in stored if row.is_main]
    assert len(leading) == len(files.tables[0].rows)
    ways = {(row.counting, row.weighting, row.denominator) for row in stored}
    assert len(stored) == len(ways) * len(leading)


def test_stored_tables_equal_the_built_ones_until_a_label_changes(
    engine: Engine, tmp_path: Path
) -> None:
    build_imported(engine)
    table = report(engine, tmp_path / "report")
    with read_session(engine) as session:
        assert read_stored_tables(session) == [table]
    with write_session(engine) as session:
        label = session.scalars(
            select(JudgeLabel).join(EffectiveLabel).where(JudgeLabel.outcome == "assigned")
        ).first()
        assert label is not None
        add_judge_label(
            session,
            LabelRow(
                run_id=label.run_id,
                latent_id=label.latent_id,
                judge_id=label.judge_id,
                taxonomy_version_id=label.taxonomy_version_id,
                outcome="none",
            ),
        )
    with read_session(engine) as session:
        assert read_stored_tables(session)[0].is_stale


@pytest.mark.slow
@pytest.mark.parametrize(
    ("denominator", "totals"),
    [("labelled", (89, 112)), ("assigned", (60, 77)), ("isolated", (92, 113))],
)
def test_the_denominator_is_the_one_that_is_named(
    sqlite_engine: Engine, tmp_path: Path, denominator: str, totals: tuple[int, int]
) -> None:
    build_imported(sqlite_engine)
    options = ReportOptions(denominator=denominator)
    row = by_slug(report(sqlite_engine, tmp_path / "report", options))["safety"]
    assert (row.target_total, row.reference_total) == totals
    assert row.denominator == denominator


@pytest.mark.slow
def test_a_group_counts_its_categories_and_stands_before_them(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_imported(sqlite_engine)
    table = report(sqlite_engine, tmp_path / "report")
    slugs = [row.category for row in table.rows]
    children = [row for row in table.rows if row.parent == "technical"]
    technical = by_slug(table)["technical"]
    assert technical.target_count == sum(row.target_count for row in children) == 21
    start = slugs.index("technical")
    assert slugs[start + 1 : start + 1 + len(children)] == [row.category for row in children]


@pytest.mark.slow
def test_planted_directions_are_checked_by_the_sign_of_the_point_estimate(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_planted(sqlite_engine)
    planted = {
        "safety": "up",
        "instruction-following": "up",
        "self-reference": "up",
        "hallucination": "down",
        "role-play": "down",
    }
    table = report(sqlite_engine, tmp_path / "report", ReportOptions(planted=planted))
    assert {check.row.category: check.has_sign for check in table.planted} == {
        "safety": True,
        "instruction-following": True,
        "self-reference": False,
        "hallucination": True,
        "role-play": False,
    }


def test_a_planted_category_that_does_not_exist_is_refused_by_name(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_imported(sqlite_engine)
    with pytest.raises(UsageError, match=r"report\.planted\.safty: .*'safety'"):
        report(sqlite_engine, tmp_path / "report", ReportOptions(planted={"safty": "up"}))


def test_a_study_without_labels_is_refused_with_the_mend(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="difflens import"):
        report(sqlite_engine, tmp_path / "report")


def test_a_comparison_whose_latents_have_no_category_is_reported_as_such(
    sqlite_engine: Engine, tmp_path: Path
) -> None:
    build_imported(sqlite_engine, {"uninterpretable": (2, 1)})
    table = report(sqlite_engine, tmp_path / "report")
    assert all(row.is_empty and row.printed_change == "" for row in table.rows)
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert "no change can be stated" in page


def test_the_fixture_has_the_published_totals() -> None:
    labelled = [
        sum(pair[side] for outcome, pair in PAPER_COUNTS.items() if outcome != "uninterpretable")
        for side in (0, 1)
    ]
    assert labelled == [89, 112]
