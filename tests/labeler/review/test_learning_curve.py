"""The order that teaches most, and the curve of the judge's accuracy against reviews."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from review_studies import Study
from seeding import decide, label
from sqlalchemy.orm import Session

from labeler.review.learning_curve import LearningCurve, read_curve
from labeler.review.queue_index import QueueIndex
from labeler.store.engine import read_session, write_session
from labeler.store.reviews import draw_audit
from labeler.store.runs import LEARNING, begin_run, finish_run


def run_of(session: Session, number: int, result: Mapping[str, Any]) -> int:
    run_id = begin_run(session, "categorize", {"number": number}, stage_key=str(number))
    finish_run(session, run_id, "done", dict(result))
    return run_id


def learned(study: Study, n_reviewed: int, proposed: tuple[int, ...] = ()) -> dict[str, Any]:
    return {
        LEARNING: {
            "judge_id": study.seed.judge_id,
            "taxonomy_version_id": study.seed.version_id,
            "n_reviewed": n_reviewed,
            "reviews_sha256": None,
            "next": list(proposed),
        }
    }


def order_of(study: Study) -> list[int]:
    index = QueueIndex(study.engine)
    with index.lock, read_session(study.engine) as session:
        table = index.table(session)
        return [int(table.latent_id[row]) for row in table.order("teaches")]


def curve_of(study: Study) -> LearningCurve | None:
    index = QueueIndex(study.engine)
    with index.lock, read_session(study.engine) as session:
        return read_curve(session, index.table(session))


def test_the_proposed_latents_come_first_and_the_random_draw_is_left_alone(small: Study) -> None:
    data = small.seed
    proposed = (data.reference[1], data.target[2], data.target[0])
    with write_session(small.engine) as session:
        run_of(session, 1, learned(small, 0, proposed))
    assert tuple(order_of(small)[:3]) == proposed
    with write_session(small.engine) as session:
        draw_audit(session, data.comparison_id, "target", 3, 0, "ann")
    assert order_of(small)[0] == data.reference[1]
    assert order_of(small)[1] not in (data.target[2], data.target[0])


def test_without_a_proposal_the_order_is_that_of_the_uncertain(small: Study) -> None:
    index = QueueIndex(small.engine)
    with index.lock, read_session(small.engine) as session:
        table = index.table(session)
        assert table.order("teaches").tolist() == table.order("uncertain").tolist()


def test_there_is_no_curve_where_the_judge_was_never_told_to_learn(small: Study) -> None:
    with write_session(small.engine) as session:
        run_of(session, 1, {})
    assert curve_of(small) is None


def test_each_run_is_measured_by_the_labels_as_they_stood(small: Study) -> None:
    data = small.seed
    first, second, third = data.target
    with write_session(small.engine) as session:
        run_of(session, 1, learned(small, 0))
        draw_audit(session, data.comparison_id, "target", 3, 0, "ann")
        for latent_id, answer in ((first, "safety"), (second, "lists"), (third, "lists")):
            decide(session, data, latent_id, answer, was_blind=True, selection="random")
        # A decision outside the draw is no part of the curve.
        decide(session, data, data.reference[0], "humour", was_blind=True)
        later = begin_run(session, "categorize", {"number": 2}, stage_key="2")
        label(session, replace(data, run_id=later), second, "lists", confidence=0.8)
        finish_run(session, later, "done", learned(small, 4))
    curve = curve_of(small)
    assert curve is not None
    assert [(one.n_reviewed, one.right.count, one.right.total) for one in curve.points] == [
        (0, 2, 3),
        (4, 3, 3),
    ]
    assert curve.points[0].interval.low < 2 / 3 < curve.points[0].interval.high
    page = small.browser().get("/progress").text
    assert "What reviews taught the judge" in page
    assert 'class="curve"' in page


def test_the_page_says_what_the_curve_waits_for(small: Study) -> None:
    with write_session(small.engine) as session:
        run_of(session, 1, learned(small, 0))
    assert "No latent of a random draw is decided blind yet" in (
        small.browser().get("/progress").text
    )
