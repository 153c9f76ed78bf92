from __future__ import annotations

import pytest
from seeding import Seed, decide, label, record_call, seed
from sqlalchemy import Engine, text
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import Session

from labeler.judge.experiments import MeasuredText
from labeler.store.engine import write_session
from labeler.store.experiments import add_test
from labeler.store.judging import CallRow, add_score, get_or_create_prompt
from labeler.store.latents import EvidenceRow, add_evidence
from labeler.store.reviews import draw_audit
from labeler.store.runs import finish_run
from labeler.store.schema import (
    ControlLatent,
    ExplanationScore,
    JudgeCall,
    JudgeLabel,
    JudgeParameters,
    LabelSample,
    ScoreCall,
    ShuffledExplanation,
)
from labeler.store.triggers import APPEND_ONLY_TABLES


def populate(session: Session) -> Seed:
    """Write at least one row into every append-only table."""
    data = seed(session)
    written = label(session, data, data.target[0], "safety")
    decide(session, data, data.target[0], "humour")
    prompt = get_or_create_prompt(session, "cd" * 32, "explain", "Explain.")
    call = record_call(
        session,
        CallRow(data.judge_id, "ef" * 32, "explain", data.run_id, "ok", "{}", prompt_id=prompt.id),
    )
    score = ExplanationScore(
        run_id=data.run_id,
        explanation_id=written.explanation_id,
        judge_id=data.judge_id,
        method="detection",
        balanced_accuracy=0.5,
        n_asked=4,
        n_parsed=4,
    )
    add_score(session, score, ())
    window = EvidenceRow(data.target[0], "top", "explain", "d1", 0, ["a"], [1], ["user"], [0.5])
    add_evidence(session, data.run_id, [window])
    draw_audit(session, data.comparison_id, "target", size=1, seed=0, drawn_by="ann")
    _add_measures_of_the_judge(session, data, written, score, call)
    return data


def _add_measures_of_the_judge(
    session: Session, data: Seed, written: JudgeLabel, score: ExplanationScore, call: JudgeCall
) -> None:
    latent_id, explanation_id = written.latent_id, written.explanation_id
    test = {
        "run_id": data.run_id, "explanation_id": explanation_id, "judge_id": data.judge_id,
        "judge_call_id": call.id, "round": 0, "text": "t", "is_chosen": True, "verdict": "holds",
        "threshold": 0.5, "n_meant": 1, "n_meant_active": 1, "n_others": 0, "n_others_active": 0,
    }  # fmt: skip
    add_test(session, test, [MeasuredText(True, "user", "", "text", 1.0)])
    session.add_all(
        [
            JudgeParameters(judge_id=data.judge_id, run_id=data.run_id, parameters={}),
            ScoreCall(explanation_score_id=score.id, judge_call_id=call.id),
            ShuffledExplanation(
                explanation_id=explanation_id, source_explanation_id=explanation_id
            ),
            ControlLatent(
                run_id=data.run_id,
                comparison_id=data.comparison_id,
                latent_id=latent_id,
                matched_latent_id=latent_id,
            ),
            LabelSample(
                run_id=data.run_id,
                latent_id=latent_id,
                judge_id=data.judge_id,
                taxonomy_version_id=data.version_id,
                explanation_id=explanation_id,
                judge_call_id=call.id,
                sample=1,
                outcome="none",
            ),
        ]
    )
    session.flush()


def column_of(table: str) -> str:
    return {
        "comparison_setting": "judge_id",
        "judge_label_category": "rank",
        "review_event_category": "rank",
        "evidence_document": "split",
        "explanation_test_text": "is_meant",
        "audit_member": "latent_id",
        "score_call": "judge_call_id",
        "shuffled_explanation": "source_explanation_id",
    }.get(table, "id")


@pytest.mark.parametrize("table", APPEND_ONLY_TABLES)
def test_rows_are_neither_updated_nor_deleted(engine: Engine, table: str) -> None:
    with write_session(engine) as session:
        populate(session)
        column = column_of(table)
        for statement in (f"UPDATE {table} SET {column} = {column}", f"DELETE FROM {table}"):
            with pytest.raises(DatabaseError, match="append-only"), session.begin_nested():
                session.execute(text(statement))


def test_a_run_changes_only_its_status_finish_and_result(engine: Engine) -> None:
    with write_session(engine) as session:
        data = seed(session)
        finish_run(session, data.run_id, "done", {"message": "all well"})
        for change in ("config_sha256 = 'x'", "kind = 'train'", "started_at = finished_at"):
            with pytest.raises(DatabaseError, match="a run changes only"), session.begin_nested():
                session.execute(text(f"UPDATE run SET {change}"))
        with pytest.raises(DatabaseError, match="a run changes only"), session.begin_nested():
            session.execute(text("DELETE FROM run"))
        query = text("SELECT status, finished_at IS NOT NULL FROM run")
        assert tuple(session.execute(query).one()) == ("done", True)


def test_a_frozen_taxonomy_version_never_changes(engine: Engine) -> None:
    with write_session(engine) as session:
        seed(session)
        for statement in (
            "UPDATE category SET name = 'other'",
            "DELETE FROM category WHERE level = 2",
            "INSERT INTO category (taxonomy_version_id, slug, level, name, definition,"
            " include_when, exclude_when, prototypes, position)"
            " SELECT id, 'late', 1, 'Late', '', '', '', '[]', 99 FROM taxonomy_version",
            "UPDATE taxonomy_version SET name = 'other'",
        ):
            with pytest.raises(DatabaseError, match="frozen"), session.begin_nested():
                session.execute(text(statement))


@pytest.mark.postgres
@pytest.mark.parametrize("backend", ["postgres"])
def test_truncate_is_refused(engine: Engine) -> None:
    with write_session(engine) as session:
        populate(session)
        with pytest.raises(DatabaseError, match="append-only"), session.begin_nested():
            session.execute(text("TRUNCATE review_event_category"))
