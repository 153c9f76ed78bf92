from __future__ import annotations

from seeding import Seed, decide, label, rows, seed
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.store.engine import write_session
from labeler.store.runs import begin_run
from labeler.store.schema import (
    CategoryChangeStatistic,
    CategoryEffect,
    Comparison,
    Latent,
    LatentSet,
    SubjectModel,
    utc_now,
)

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


BESIDE = "SELECT n_seeds, stable_share, n_reviewed, reviewed_share FROM v_category_change_statistic"


def test_reviewed_and_stable_shares_are_of_the_latents_of_both_sides(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        write_statistic(session, data, data.run_id)
        assert rows(session, BESIDE) == [(None, None, None, None)]
        latents = [data.target[0], data.target[1], data.reference[0]]
        for latent in latents:
            label(session, data, latent, "safety")
        assert rows(session, BESIDE) == [(None, None, 0, 0)]
        for latent, p_reappear in zip(latents, (1.0, 0.5, 0.25), strict=True):
            row = session.get_one(Latent, latent)
            row.n_seeds, row.p_reappear = 4, p_reappear
        decide(session, data, latents[0], "safety")
        session.flush()
        assert rows(session, BESIDE) == [(4, 2 / 3, 1, 1 / 3)]


def test_the_effect_towards_the_target_stands_beside_the_change(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        write_statistic(session, data, data.run_id)
        target, base = (SubjectModel(name=name, fingerprint=name) for name in ("target", "base"))
        session.add_all((target, base))
        session.flush()
        comparison = session.get_one(Comparison, data.comparison_id)
        sides = session.get_one(LatentSet, comparison.target_set_id)
        sides.target_model_id, sides.against_model_id = target.id, base.id
        shared = {
            "kind": "category",
            "name": "safety",
            "scope": "assistant",
            "is_main": True,
            "n_latents": 2,
            "n_documents": 9,
            "n_tokens": 90,
            "n_controls": 200,
            "n_patched_controls": 20,
        }
        for share, models in ((0.5, (base, target)), (0.25, (target, base))):
            ids = {"target_model_id": models[0].id, "reference_model_id": models[1].id}
            measured = {"first_order": share, "q_value": 0.04, "restored": 0.3, "restored_p": 0.05}
            session.add(
                CategoryEffect(
                    run_id=data.run_id, comparison_id=comparison.id, **shared, **ids, **measured
                )
            )
        session.flush()
        found = rows(
            session,
            "SELECT attribution, attribution_q, restored, restored_p, answers_points"
            " FROM v_category_change_statistic",
        )
        assert found == [(0.25, 0.04, 0.3, 0.05, None)]
