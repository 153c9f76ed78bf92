"""The reference pages say what the code and both databases say."""

from __future__ import annotations

import csv
import io
import runpy
from collections import Counter
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from pathlib import Path

import pytest
from markdown import ROOT, blocks
from published_table import COUNTS, PUBLISHED, TECHNICAL, TOTALS
from reference import PAGES, study_page
from sqlalchemy import Engine, inspect

from labeler.exchange.latents_import import import_latents
from labeler.report.build import ReportOptions, build_report
from labeler.store.engine import write_session
from labeler.store.query.query import format_result, run_query
from labeler.store.runs import begin_run
from labeler.store.views import VIEWS
from labeler.study.study_file import StudyConfig
from taxonomy.tree import seed_taxonomy

DOCS = ROOT / "docs"
PAPER = ROOT / "examples" / "paper"


@pytest.fixture
def paper(engine: Engine, tmp_path: Path) -> Engine:
    """The paper example, imported and reported."""
    import_latents(engine, PAPER / "latents.csv", seed_taxonomy())
    with write_session(engine) as session:
        run_id = begin_run(session, "report", {})
    build_report(engine, ReportOptions("paper"), tmp_path / "report", run_id)
    return engine


@pytest.mark.parametrize(("name", "page"), PAGES.items(), ids=list(PAGES))
def test_reference_page_is_current(name: str, page: Callable[[], str]) -> None:
    shown = (DOCS / name).read_text(encoding="utf-8")
    assert shown == page(), "write it anew: python docs/reference.py"


def test_every_key_is_explained() -> None:
    rows = [line for line in study_page().splitlines() if line.startswith("| `")]
    assert len(rows) > 60
    assert [row for row in rows if not row.split(" | ")[-1].strip(" |")] == []
    assert all(f"{name}]" in study_page() for name in StudyConfig.model_fields)


def test_documented_columns_are_those_of_the_database(engine: Engine) -> None:
    page = (DOCS / "views.md").read_text(encoding="utf-8")
    documented = {
        section.split("\n")[0]: [
            line.split("`")[1] for line in section.splitlines() if line.startswith("| `")
        ]
        for section in page.split("\n## ")[1:]
    }
    inspector = inspect(engine)
    present = {view for view in inspector.get_view_names() if view != "v_definitions"}
    assert set(documented) == present == {view.name for view in VIEWS}
    for view, columns in documented.items():
        assert [column["name"] for column in inspector.get_columns(view)] == columns, view


@pytest.mark.slow
def test_worked_queries_give_the_results_that_are_shown(paper: Engine, database_url: str) -> None:
    page = DOCS / "sql.md"
    queries, results = blocks(page, "sql"), blocks(page, "text")
    assert len(queries) == len(results) >= 10
    for query, shown in zip(queries, results, strict=True):
        answer = format_result(run_query(database_url, query.text))
        assert as_values(answer) == as_values(shown.text), query.text


def as_values(table: str) -> list[list[str | Decimal]]:
    """Cells without their padding; 1, 1.0 and 1.00 are one number."""
    header, rule, *rows = table.rstrip("\n").split("\n")
    ends = [0]
    for dashes in rule.split("  "):
        ends.append(ends[-1] + len(dashes) + 2)
    return [
        [_value(line[begin:end].strip()) for begin, end in pairwise(ends)]
        for line in (header, *rows)
    ]


def _value(cell: str) -> str | Decimal:
    if cell.startswith("+"):
        return cell
    try:
        return Decimal(cell).normalize()
    except InvalidOperation:
        return cell


def test_paper_example_is_what_its_script_writes() -> None:
    written = io.StringIO()
    runpy.run_path(str(PAPER / "make_latents.py"))["write"](written)
    assert (PAPER / "latents.csv").read_text(encoding="utf-8") == written.getvalue()


def test_paper_example_has_the_inferred_counts() -> None:
    with (PAPER / "latents.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sides = {side: Counter(r["category"] for r in rows if r["side"] == side) for side in TOTALS}
    assert {side: counts.total() for side, counts in sides.items()} == {
        "target": 92,
        "reference": 113,
    }
    for side, counts in sides.items():
        assert counts.total() - counts["uninterpretable"] - counts[""] == TOTALS[side]
    for slug, counts in COUNTS.items():
        assert (sides["target"][slug], sides["reference"][slug]) == counts


def test_paper_example_gives_the_published_percentages(paper: Engine, database_url: str) -> None:
    answer = run_query(database_url, "select category, percent_change from v_category_change")
    changes = dict(answer.rows)
    assert {slug: round(changes[slug], 1) for slug in PUBLISHED} == PUBLISHED
    totals = run_query(
        database_url,
        "select target_count, reference_count from v_category_change where category = 'technical'",
    )
    assert totals.rows == (TECHNICAL,)
