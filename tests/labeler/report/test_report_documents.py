"""How much text a change needs, wherever a report is shown."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from report_page import read_page
from report_studies import report_run
from shifted_study import build_shifted
from sqlalchemy import Engine, select, text

from labeler.report.build import ReportFiles, ReportOptions, build_report
from labeler.report.documents import document_sentence, documents_text
from labeler.report.model import ChangeTable, Coverage
from labeler.report.statistics import CategoryNode, rows_of
from labeler.store.engine import read_session, write_session
from labeler.store.latents import get_or_create_corpus
from labeler.store.schema import Crosscoder
from taxonomy.change import change_statistics
from taxonomy.counts import CategoryCounts


def reported(engine: Engine, folder: Path) -> ReportFiles:
    build_shifted(engine)
    with write_session(engine) as session:
        crosscoder = session.execute(select(Crosscoder)).scalar_one()
        crosscoder.corpus_id = get_or_create_corpus(session, "corpus.jsonl", "c0" * 32, 611).id
    return build_report(engine, ReportOptions(), folder / "report", report_run(engine))


@pytest.fixture
def table() -> ChangeTable:
    """One category, of a text of unknown size."""
    changes = change_statistics([CategoryCounts("safety", 1, None, 9, 60, 4, 60)])
    nodes = [CategoryNode("safety", "Safety", 1, None)]
    rows = rows_of(changes, nodes, counting="primary", weighting="none", denominator="labelled")
    target, reference = (
        Coverage(side, 60, 60, 60, 0, 0, 0, 0, 0, 0, 0) for side in ("target", "reference")
    )
    return ChangeTable("a", "simpo", "it", "seed 1", "labelled", rows, (target, reference))


def safety(table: ChangeTable, **values: object) -> ChangeTable:
    """The table with such advice."""
    return replace(table, rows=(replace(table.rows[0], **values),))


@pytest.mark.slow
def test_page_markdown_json_and_view_hold_the_advice(sqlite_engine: Engine, tmp_path: Path) -> None:
    files = reported(sqlite_engine, tmp_path)
    said = document_sentence(files.tables[0])
    assert said is not None
    assert said.startswith("With 611 documents, the smallest change that ")
    page = files.html.read_text(encoding="utf-8")
    assert said in " ".join(read_page(page).text.split())
    assert "How much text each change needs" in page
    assert said.split(" points")[0] in files.markdown.read_text(encoding="utf-8").replace("\\", "")
    rows = {row["category"]: row for row in json.loads(files.json.read_text(encoding="utf-8"))}
    assert rows["safety"]["n_documents"] == 611
    assert rows["safety"]["detectable_points"] > 0
    with read_session(sqlite_engine) as session:
        stored = session.execute(
            text("SELECT category, n_documents, documents_needed FROM v_category_change_statistic")
        )
        needed = {row.category: (row.n_documents, row.documents_needed) for row in stored}
    for category, row in rows.items():
        assert needed[category] == (row["n_documents"], row["documents_needed"])


def test_a_text_of_unknown_size_gets_no_advice(table: ChangeTable) -> None:
    assert document_sentence(table) is None


def test_the_sentence_names_the_change_that_needs_the_least_more(table: ChangeTable) -> None:
    open_change = {"n_documents": 611, "detectable_points": 9.2, "verdict": "no evidence"}
    near = safety(table, **open_change, documents_needed=1834, difference_points=5.0)
    assert document_sentence(near) == (
        "With 611 documents, the smallest change that would be distinguishable is 9 percentage "
        "points. A change as large as the one seen in Safety (+5 points) would need about 1,900 "
        "documents."
    )
    enough = safety(table, **open_change, documents_needed=500, difference_points=9.0)
    assert "is usually found in this many, and was not here" in str(document_sentence(enough))


def test_no_amount_is_advised_where_the_changes_are_about_nothing(table: ChangeTable) -> None:
    nothing = safety(
        table, n_documents=611, detectable_points=9.2, documents_needed=None, verdict="no evidence"
    )
    assert "No amount of text is advised" in str(document_sentence(nothing))
    called = safety(
        table, n_documents=611, detectable_points=9.2, documents_needed=None, verdict="up"
    )
    assert document_sentence(called) == (
        "With 611 documents, the smallest change that would be distinguishable is 9 percentage "
        "points."
    )
    blind = safety(
        table, n_documents=611, detectable_points=None, documents_needed=None, verdict="no evidence"
    )
    assert "no change of any category would be distinguishable" in str(document_sentence(blind))


def test_documents_are_rounded_up_to_two_digits() -> None:
    assert [documents_text(n) for n in (7, 99, 101, 1834, 12_010, None)] == [
        "7", "99", "110", "1,900", "13,000", "none advised",
    ]  # fmt: skip
