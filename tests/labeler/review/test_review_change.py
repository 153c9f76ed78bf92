"""The category table of the review pages is the report's, whatever study.toml says of counting."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_studies import build_imported
from scipy.stats import boschloo_exact, fisher_exact
from sqlalchemy import Engine
from statsmodels.stats.multitest import multipletests

from labeler.report.statistics import compute_rows, read_category_nodes
from labeler.review.queue_index import QueueIndex, change_rows
from labeler.review.queue_table import Leaf, QueueTable
from labeler.review.queued_latents import QueuedLatent, Setting
from labeler.store.engine import read_session
from labeler.study.config import Denominator, ReportSection
from taxonomy.counts import ALPHA, ExactTest

TESTS = get_args(ExactTest)
LEAVES = (Leaf("group", "Group", None), Leaf("a", "A", "group"), Leaf("alone", "Alone", None))
ANSWERS = ("group", "a", "alone", "none", "uninterpretable")
COUNTS = {"safety": (7, 1), "multilingual": (3, 9), "none": (50, 50), "uninterpretable": (4, 20)}
"""Shares that Fisher's test lets pass and Boschloo's does not, by some denominator."""


def queue(sides: dict[str, list[str]]) -> QueueTable:
    """A queue with these answers on each side."""
    latents = [
        QueuedLatent(
            side=side,
            latent_id=100 * number + index,
            crosscoder="cc",
            latent_index=index,
            outcome=answer if answer in ("none", "uninterpretable") else "assigned",
            source="judge",
            category=None if answer in ("none", "uninterpretable") else answer,
            others=(),
            explanation="",
            judge_answer=None,
            confidence=None,
            disagreement=0.0,
            reviewed=False,
            conflict=False,
        )
        for number, (side, answers) in enumerate(sides.items())
        for index, answer in enumerate(answers)
    ]
    return QueueTable(Setting(1, "c", 1, 1), LEAVES, latents)


@pytest.mark.parametrize("test", TESTS)
@pytest.mark.parametrize("denominator", get_args(Denominator))
def test_both_pages_agree(sqlite_engine: Engine, test: ExactTest, denominator: Denominator) -> None:
    build_imported(sqlite_engine, COUNTS)
    queue_index = QueueIndex(sqlite_engine)
    with read_session(sqlite_engine) as session, queue_index.lock:
        table = queue_index.table(session)
        nodes = read_category_nodes(session, table.setting.taxonomy_version_id)
        rows = compute_rows(session, "paper", nodes, denominator, ALPHA, test)
        section = ReportSection(test=test, denominator=denominator)
        shown = {row.change.category: row.change for row in change_rows(table, section)}
    assert [row.category for row in rows] == list(shown)
    for row in rows:
        change = shown[row.category]
        for name in ("target_count", "target_total", "reference_count", "reference_total",
                     "p_value", "q_value", "verdict", "test", "ci_low", "ci_high"):  # fmt: skip
            assert getattr(change, name) == getattr(row, name), (row.category, name)


def test_the_choice_of_the_test_shows(sqlite_engine: Engine) -> None:
    build_imported(sqlite_engine, {"safety": (7, 1), "none": (53, 59)})
    queue_index = QueueIndex(sqlite_engine)
    with read_session(sqlite_engine) as session, queue_index.lock:
        table = queue_index.table(session)
        verdicts = {
            test: next(
                row.change.verdict
                for row in change_rows(table, ReportSection(test=test))
                if row.change.category == "safety"
            )
            for test in TESTS
        }
    assert len(set(verdicts.values())) == 2, verdicts


answers = st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=25)


@pytest.mark.parametrize("test", TESTS)
@settings(max_examples=12, deadline=None)
@given(target=answers, reference=answers)
def test_p_and_q_are_those_of_the_libraries(
    test: ExactTest, target: list[str], reference: list[str]
) -> None:
    rows = change_rows(queue({"target": target, "reference": reference}), ReportSection(test=test))
    for level in (1, 2):
        family = [row.change for row in rows if row.change.level == level and not row.is_empty]
        expected = [_library_p(test, row.target_count, row.target_total, row.reference_count,
                               row.reference_total) for row in family]  # fmt: skip
        assert [row.p_value for row in family] == pytest.approx(expected, abs=2e-3)
        if family:
            q_values = multipletests([row.p_value for row in family], method="fdr_bh")[1]
            assert [row.q_value for row in family] == pytest.approx(list(q_values))


def _library_p(test: str, a: int, n: int, b: int, m: int) -> float:
    if not n or not m or a + b in (0, n + m):
        return 1.0
    table = [[a, n - a], [b, m - b]]
    if test == "fisher":
        return float(fisher_exact(table).pvalue)
    # Its columns are the two samples.
    return float(boschloo_exact([[a, b], [n - a, m - b]]).pvalue)
