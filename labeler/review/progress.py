"""How far the review is, and how far reviewers agree with each other and with the judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from labeler.review.places import Place, Setting
from labeler.review.table import QueueTable
from labeler.store.view_definitions.base import ADJUDICATED


@dataclass(frozen=True)
class ReviewerProgress:
    """What one reviewer has done."""

    reviewer: str
    decided: int
    skipped: int
    blind: int
    blind_left: int
    median_seconds: float | None
    """Per decision; None where no page measured it."""


@dataclass(frozen=True)
class Agreement:
    """Two parties on the latents that both decided; kappa is None where it is undefined."""

    first: str
    second: str
    n: int
    n_equal: int
    kappa: float | None

    @property
    def share(self) -> float | None:
        """Share of equal answers."""
        return self.n_equal / self.n if self.n else None


@dataclass(frozen=True)
class Confusion:
    """How often people answered `human` where the judge had answered `judge`."""

    judge: str
    human: str
    n: int
    n_blind: int


@dataclass(frozen=True)
class Progress:
    """The page of a comparison's progress."""

    total: int
    reviewed: int
    conflicts: int
    reviewers: tuple[ReviewerProgress, ...]
    agreements: tuple[Agreement, ...]
    judge_blind: Agreement
    """Judge and people on the latents decided blind."""
    judge_all: Agreement
    confusions: tuple[Confusion, ...]
    """Where judge and people differ, the most frequent first."""


def read_progress(session: Session, table: QueueTable) -> Progress:
    """Everything the progress page says."""
    voiced = [place for place in table.places if place.voices or place.skipped]
    facts = _event_facts(session, table.setting)
    reviewers = sorted({name for place in voiced for name in (*place.voices, *place.skipped)})
    pairs = _judge_and_people(voiced, facts)
    blind = [(judge, human) for judge, human, was_blind in pairs if was_blind]
    both = [(judge, human) for judge, human, _ in pairs]
    return Progress(
        total=len(table.places),
        reviewed=int(table.reviewed.sum()),
        conflicts=int(table.conflict.sum()),
        reviewers=tuple(_reviewer(table, name, facts) for name in reviewers),
        agreements=tuple(
            _agreement(first, second, _shared(voiced, first, second))
            for first, second in combinations([r for r in reviewers if r != ADJUDICATED], 2)
        ),
        judge_blind=_agreement("judge", "people, blind", blind),
        judge_all=_agreement("judge", "people", both),
        confusions=_confusions(pairs),
    )


@dataclass(frozen=True)
class _Facts:
    """What only the events themselves know."""

    blind: frozenset[tuple[int, str]]
    """Latent and reviewer of decisions made blind."""
    seconds: dict[str, float]
    """Median by reviewer."""


def _event_facts(session: Session, setting: Setting) -> _Facts:
    rows = session.execute(
        text(
            "SELECT latent_id, reviewer, was_blind, elapsed_ms FROM review_event"
            " WHERE taxonomy_version_id = :version AND action <> 'undo'"
            " AND (was_blind OR elapsed_ms IS NOT NULL)"
        ),
        {"version": setting.taxonomy_version_id},
    ).all()
    times: dict[str, list[int]] = {}
    for row in rows:
        if row.elapsed_ms is not None:
            times.setdefault(row.reviewer, []).append(row.elapsed_ms)
    return _Facts(
        blind=frozenset((row.latent_id, row.reviewer) for row in rows if row.was_blind),
        seconds={name: float(np.median(values)) / 1000 for name, values in times.items()},
    )


def _reviewer(table: QueueTable, name: str, facts: _Facts) -> ReviewerProgress:
    mine = table.mine(name)
    audit = table.audit > 0
    return ReviewerProgress(
        reviewer=name,
        decided=int(mine.decided.sum()),
        skipped=int((mine.skipped & ~mine.decided).sum()),
        blind=sum(1 for _, reviewer in facts.blind if reviewer == name),
        blind_left=0 if name == ADJUDICATED else int((audit & ~mine.touched).sum()),
        median_seconds=facts.seconds.get(name),
    )


Pair = tuple[str, str]
"""The answers of two parties on one latent."""


def _shared(places: Sequence[Place], first: str, second: str) -> list[Pair]:
    return [
        (place.voices[first], place.voices[second])
        for place in places
        if first in place.voices and second in place.voices
    ]


def _judge_and_people(places: Sequence[Place], facts: _Facts) -> list[tuple[str, str, bool]]:
    """Judge's answer, people's answer, and whether it was given blind."""
    pairs = []
    for place in places:
        if place.judge_answer is not None and place.voices and place.source == "human":
            blind = any((place.latent_id, name) in facts.blind for name in place.voices)
            pairs.append((place.judge_answer, place.answer, blind))
    return pairs


def _agreement(first: str, second: str, pairs: Sequence[Pair]) -> Agreement:
    equal = sum(1 for one, other in pairs if one == other)
    return Agreement(first, second, len(pairs), equal, cohen_kappa(pairs))


def cohen_kappa(pairs: Sequence[Pair]) -> float | None:
    """Cohen's kappa (1960); None without pairs or where all answers are the same."""
    if not pairs:
        return None
    from statsmodels.stats.inter_rater import cohens_kappa

    answers = sorted({answer for pair in pairs for answer in pair})
    if len(answers) < 2:
        return None
    place = {answer: index for index, answer in enumerate(answers)}
    counts = np.zeros((len(answers), len(answers)))
    for one, other in pairs:
        counts[place[one], place[other]] += 1
    return float(cohens_kappa(counts, return_results=False))


def _confusions(pairs: Sequence[tuple[str, str, bool]]) -> tuple[Confusion, ...]:
    every = Counter((judge, human) for judge, human, _ in pairs if judge != human)
    blind = Counter((judge, human) for judge, human, was_blind in pairs if was_blind)
    return tuple(
        Confusion(judge, human, n, blind[judge, human])
        for (judge, human), n in every.most_common(20)
    )
