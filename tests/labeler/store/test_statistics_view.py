from __future__ import annotations

from seeding import Seed, decide, label, rows, seed
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.store.engine import write_session
from labeler.store.runs import begin_run
from labeler.store.schema import CategoryChangeStatistic, utc_now

QUERY = "SELECT category, report_run_id, verdict, is_stale FROM v_category_change_statistic"


def write_statistic(session: Session, data: Seed, run_id: int) -> None:
    session.add(
        CategoryChangeStatistic(
            report_run_id=run_id,
            computed_at=utc_now(),
            comparison_id=data.comparison_id,
            taxonomy_version_id=data.version_id,
            category="safety",
            parent="behaviour",
            level=2,
            target_count=1,
            target_total=1,
            reference_count=0,
            reference_total=0,
            verdict="too few to say",
            printed_change="new",
            situation="only on the target side",
            test="fisher",
            is_main=True,
        )
    )
    session.flush()


def test_only_the_newest_report_is_shown(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        newer = begin_run(session, "report", {"newer": True})
        write_statistic(session, data, data.run_id)
        write_statistic(session, data, newer)
        shown = rows(session, QUERY)
        assert [row[:3] for row in shown] == [("safety", newer, "too few to say")]


def test_a_report_is_stale_once_an_active_label_changes(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        label(session, data, data.target[0], "safety")
        write_statistic(session, data, data.run_id)
        assert not rows(session, QUERY)[0][3]
        label(session, data, data.target[0], "lists", judge_id=data.other_judge_id)
        assert not rows(session, QUERY)[0][3]
        decide(session, data, data.target[0], "humour")
        assert rows(session, QUERY)[0][3]
