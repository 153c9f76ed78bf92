"""Whether a study's reviews are an input of the stage that categorises."""

from __future__ import annotations

from pathlib import Path

from seeding import seed
from sqlalchemy import Engine

from crosscoder.progress import SilentProgress
from labeler.stages.base import StageContext
from labeler.stages.categorize import STAGE
from labeler.stages.label import judge_inputs
from labeler.stages.learning import new_lessons, study_lessons
from labeler.store.engine import write_session
from labeler.store.reviews import Decision, record_decision
from labeler.store.runs import LEARNING, begin_run, finish_run
from labeler.store.taxonomies import ensure_taxonomy_version
from labeler.study.study_file import StudyFile
from taxonomy.tree import seed_taxonomy


def context_of(folder: Path, engine: Engine, learn: str) -> StageContext:
    path = folder / "study.toml"
    path.write_text(
        f'[study]\nname = "s"\n[judge]\nlearn = {learn}\n[embedding]\nkind = "tfidf"\n',
        encoding="utf-8",
    )
    return StageContext(StudyFile.read(path), engine, SilentProgress())


def test_a_review_makes_categorize_stale_only_where_the_judge_learns(
    tmp_path: Path, sqlite_engine: Engine
) -> None:
    with write_session(sqlite_engine) as session:
        data = seed(session)
        version = ensure_taxonomy_version(session, seed_taxonomy()).id
    learning = context_of(tmp_path, sqlite_engine, "true")
    other = context_of(tmp_path, sqlite_engine, "false")
    before = STAGE.inputs(learning)
    assert before == STAGE.inputs(other)
    with write_session(sqlite_engine) as session:
        decision = Decision(data.target[0], version, "ann", 0, "set", ("safety",))
        record_decision(session, decision)
    assert STAGE.inputs(other) == before
    taught = STAGE.inputs(learning)
    assert {key for key in taught if taught[key] != before.get(key)} == {"reviews"}
    section = learning.study.config.judge
    assert judge_inputs(section) == judge_inputs(other.study.config.judge)
    # A latent without evidence teaches nothing.
    assert study_lessons(learning, section) is None


def test_a_plan_counts_only_lessons_that_are_new(tmp_path: Path, sqlite_engine: Engine) -> None:
    with write_session(sqlite_engine) as session:
        seed(session)
        ensure_taxonomy_version(session, seed_taxonomy())
        run_id = begin_run(session, "categorize", {})
        finish_run(session, run_id, "done", {LEARNING: {"reviews_sha256": None}})
    context = context_of(tmp_path, sqlite_engine, "true")
    assert new_lessons(context, context.study.config.judge) is None
