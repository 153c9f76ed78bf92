"""Reads what stands beside a comparison's result: null runs, scores, base rates of controls."""

from __future__ import annotations

from sqlalchemy.orm import Session

from labeler.report.beside import Beside
from labeler.report.comparisons import ComparisonFacts
from labeler.scoring_report import read_control_rates, read_scores
from labeler.store.null_results import read_null_runs


def read_beside(session: Session, facts: ComparisonFacts, denominator: str, test: str) -> Beside:
    """What was stored for a comparison; empty parts where nothing was."""
    return Beside(
        null_runs=read_null_runs(session, facts.comparison, denominator, test),
        scores=read_scores(session, facts.comparison, facts.judge_id),
        controls=read_control_rates(session, facts.comparison.name),
    )
