"""What the judges of a study learn from its reviews, read for the stage that categorises."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from labeler.judge.factory import judge_sections
from labeler.stages.base import StageContext
from labeler.store.engine import open_engine, read_session
from labeler.store.runs import LEARNING, latest_done_run
from labeler.taxonomies.showing import stored_version

if TYPE_CHECKING:
    from labeler.judge.lessons import Lessons
    from labeler.study.judge_config import JudgeSection


@contextmanager
def _reviews(context: StageContext) -> Iterator[tuple[Session, str | None]]:
    """The database with the study's reviews, and the name of its taxonomy, if it is stored.

    A null run learns from the reviews of the study itself: its judge must be the same.
    """
    study = context.study.original
    is_own = study is context.study
    engine = context.engine if is_own else open_engine(study.database_url)
    try:
        with read_session(engine) as session:
            version = stored_version(session, study)
            yield session, None if version is None else version.name
    finally:
        if not is_own:
            engine.dispose()


def reviews_input(context: StageContext) -> str | None:
    """Hash of the reviews that a judge of the study learns from; None where none does."""
    from labeler.labeling.learning import reviewed_sha256

    if not any(section.learn for section in judge_sections(context.study)):
        return None
    with _reviews(context) as (session, taxonomy):
        return None if taxonomy is None else reviewed_sha256(session, taxonomy)


def new_lessons(context: StageContext, section: JudgeSection) -> Lessons | None:
    """What the next categorize run teaches a judge; None where it has been taught so already."""
    if not section.learn:
        return None
    with read_session(context.engine) as session:
        run = latest_done_run(session, "categorize")
    known = None if run is None else (run.result or {}).get(LEARNING, {}).get("reviews_sha256")
    return None if reviews_input(context) == known else study_lessons(context, section)


def study_lessons(context: StageContext, section: JudgeSection) -> Lessons | None:
    """The reviewed latents that a judge learns from; None where it learns from none."""
    from labeler.labeling.learning import read_lessons

    if not section.learn:
        return None
    with _reviews(context) as (session, taxonomy):
        lessons = None if taxonomy is None else read_lessons(session, taxonomy)
    return lessons if lessons is not None and lessons.reviewed else None
