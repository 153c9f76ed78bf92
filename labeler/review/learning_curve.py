"""How right the judge is after so many reviews, measured on the blind random draw.

A label never learns from the review of its own latent (`labeler.judge.lessons`), so that the labels
of the drawn latents are fair at every point, also where their reviews taught others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.review.queue_table import QueueTable
from labeler.review.queued_latents import Setting
from labeler.store.outcomes import ANSWERS
from labeler.store.runs import LEARNING
from labeler.store.schema import Category, JudgeLabel, JudgeLabelCategory, Run
from labeler.store.statements import chunks
from taxonomy.counts import Interval, Side
from taxonomy.intervals import wilson_interval

WIDTH, HEIGHT = 360, 190
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 10, 36
"""Margins of the plot around its axes, in the units of WIDTH and HEIGHT."""


@dataclass(frozen=True)
class CurvePoint:
    """The judge's labels as they stood after one run."""

    n_reviewed: int
    """Reviewed latents that the judge had learned from."""
    right: Side
    """Of the latents decided blind, those that the judge's label had right."""
    interval: Interval
    """95%, Wilson."""


@dataclass(frozen=True)
class LearningCurve:
    """The points by number of reviews; empty where no blind review can be compared yet."""

    points: tuple[CurvePoint, ...]

    def x(self, n_reviewed: int) -> float:
        """Place of a number of reviews on the horizontal axis."""
        most = max((point.n_reviewed for point in self.points), default=0)
        share = n_reviewed / most if most else 0.5
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, share: float) -> float:
        """Place of an accuracy on the vertical axis."""
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)

    @property
    def line(self) -> str:
        """The points as an SVG polyline takes them."""
        places = ((self.x(one.n_reviewed), self.y(one.right.share)) for one in self.points)
        return " ".join(f"{x},{y}" for x, y in places)


def read_next_reviews(session: Session, setting: Setting) -> list[int]:
    """The latents that the newest categorize run proposes to review next, in their order."""
    for run in reversed(_runs(session)):
        learning = _learning(run, setting)
        if learning is not None:
            return [int(latent_id) for latent_id in learning["next"]]
    return []


def read_curve(session: Session, table: QueueTable) -> LearningCurve | None:
    """The curve of a comparison's active judge; None where it has never been told to learn."""
    setting, runs = table.setting, _runs(session)
    if not any(_learning(run, setting) for run in runs):
        return None
    human = _decided_blind(table)
    labels = _labels(session, setting, human)
    points: dict[int, CurvePoint] = {}
    for run in runs:
        learning = _learning(run, setting)
        if learning is None and not any(label.run_id == run.id for label in labels):
            continue
        stood = {label.latent_id: label.answer for label in labels if label.run_id <= run.id}
        right = Side(sum(human[each] == answer for each, answer in stood.items()), len(stood))
        interval = wilson_interval(right)
        if interval is not None:
            n_reviewed = 0 if learning is None else int(learning["n_reviewed"])
            points[n_reviewed] = CurvePoint(n_reviewed, right, interval)
    return LearningCurve(tuple(points[n] for n in sorted(points)))


def _runs(session: Session) -> Sequence[Run]:
    """The finished categorize runs, oldest first."""
    query = select(Run).where(Run.kind == "categorize", Run.status == "done").order_by(Run.id)
    return session.execute(query).scalars().all()


def _learning(run: Run, setting: Setting) -> Mapping[str, Any] | None:
    """What a run says of learning, where it labelled for the active judge and version."""
    found: Mapping[str, Any] | None = (run.result or {}).get(LEARNING)
    if found is None:
        return None
    key = found["judge_id"], found["taxonomy_version_id"]
    return found if key == (setting.judge_id, setting.taxonomy_version_id) else None


def _decided_blind(table: QueueTable) -> dict[int, str]:
    """People's answer on each latent of the random draws that was decided blind."""
    rows = np.flatnonzero(table.blind & table.reviewed & (table.audit > 0))
    return {int(table.latent_id[row]): table.answers[table.answer[row]] for row in rows}


@dataclass(frozen=True)
class _Label:
    """One label of the judge."""

    id: int
    run_id: int
    latent_id: int
    answer: str
    """Slug of the primary category, else the outcome."""


def _labels(session: Session, setting: Setting, latents: Collection[int]) -> list[_Label]:
    """Every answered label of these latents by the active judge, oldest first."""
    found: list[_Label] = []
    for part in chunks(latents):
        query = (
            select(
                JudgeLabel.id,
                JudgeLabel.run_id,
                JudgeLabel.latent_id,
                Category.slug,
                JudgeLabel.outcome,
            )
            .outerjoin(
                JudgeLabelCategory,
                (JudgeLabelCategory.judge_label_id == JudgeLabel.id)
                & (JudgeLabelCategory.rank == 1),
            )
            .outerjoin(Category, Category.id == JudgeLabelCategory.category_id)
            .where(
                JudgeLabel.latent_id.in_(part),
                JudgeLabel.judge_id == setting.judge_id,
                JudgeLabel.taxonomy_version_id == setting.taxonomy_version_id,
                JudgeLabel.is_control.is_(False),
                JudgeLabel.outcome.in_(ANSWERS),
            )
        )
        found += [
            _Label(row.id, row.run_id, row.latent_id, row.slug or row.outcome)
            for row in session.execute(query)
        ]
    return sorted(found, key=lambda label: label.id)
