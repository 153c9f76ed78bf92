"""The pages of numbers: category table, taxonomy, random audit, progress with its agreement."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text
from sqlalchemy.orm import Session
from starlette.responses import Response

from labeler.errors import UsageError
from labeler.report.basis import read_basis
from labeler.report.randomisation import read_randomised_sides
from labeler.report.seeds import read_further_seeds
from labeler.report.statistics import further_counts
from labeler.review.context import Asked, Page, redirect
from labeler.review.learning_curve import HEIGHT, LEFT, RIGHT, WIDTH, read_curve
from labeler.review.queue_index import change_rows, reviewed_rows
from labeler.review.queue_table import NOBODY, Counts, QueueTable
from labeler.review.queued_latents import Setting
from labeler.review.routes.queue import names_of
from labeler.store.reviews import active_draws, draw_audit
from labeler.store.schema import Comparison
from labeler.store.views.base import ADJUDICATED

LONGEST_LOOK_MS = 300_000
"""A look longer than this was a break."""
MOST_CONFUSIONS = 20
DEFAULT_DRAW = 60
"""Latents a side from which on the corrected estimates are steadier than the plain ones."""


@dataclass(frozen=True)
class ReviewerProgress:
    """What one reviewer has done."""

    reviewer: str
    decided: int
    skipped: int
    blind: int
    blind_left: int
    mean_seconds: float | None
    """Per decision, breaks left out; None where no page measured it."""


@dataclass(frozen=True)
class PairAgreement:
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
    agreements: tuple[PairAgreement, ...]
    judge_blind: PairAgreement
    """Judge and people on the latents decided blind."""
    judge_all: PairAgreement
    confusions: tuple[Confusion, ...]
    """Where judge and people differ, the most frequent first."""


def read_progress(session: Session, table: QueueTable) -> Progress:
    """Everything the progress page says."""
    seconds = _mean_seconds(session, table.setting)
    reviewers = sorted(table.reviewers)
    people = np.where(table.reviewed, table.answer, NOBODY)
    counts = pair_counts(table, table.judge_answer, people)
    blind = pair_counts(table, table.judge_answer, np.where(table.blind, people, NOBODY))
    return Progress(
        total=len(table.latents),
        reviewed=int(table.reviewed.sum()),
        conflicts=int(table.conflict.sum()),
        reviewers=tuple(_reviewer(table, name, seconds.get(name)) for name in reviewers),
        agreements=tuple(
            _agreement(first, second, table.pairs.of(first, second))
            for first, second in combinations([r for r in reviewers if r != ADJUDICATED], 2)
        ),
        judge_blind=_agreement("judge", "people, blind", blind),
        judge_all=_agreement("judge", "people", counts),
        confusions=_confusions(table, counts, blind),
    )


def _mean_seconds(session: Session, setting: Setting) -> dict[str, float]:
    rows = session.execute(
        text(
            "SELECT reviewer, avg(elapsed_ms) AS mean_ms FROM review_event"
            " WHERE taxonomy_version_id = :version AND elapsed_ms <= :longest GROUP BY reviewer"
        ),
        {"version": setting.taxonomy_version_id, "longest": LONGEST_LOOK_MS},
    )
    return {row.reviewer: float(row.mean_ms) / 1000 for row in rows}


def _reviewer(table: QueueTable, name: str, seconds: float | None) -> ReviewerProgress:
    mine = table.mine(name)
    return ReviewerProgress(
        reviewer=name,
        decided=int(mine.decided.sum()),
        skipped=int((mine.skipped & ~mine.decided).sum()),
        blind=int(mine.blind.sum()),
        blind_left=0 if name == ADJUDICATED else int(table.hidden(name).sum()),
        mean_seconds=seconds,
    )


def pair_counts(table: QueueTable, first: NDArray[Any], second: NDArray[Any]) -> Counts:
    """Latents by the (n,) answers of two parties, where both gave one."""
    n = len(table.answers)
    both = (first != NOBODY) & (second != NOBODY)
    pairs = first[both].astype(np.int64) * n + second[both]
    return np.bincount(pairs, minlength=n * n).reshape(n, n)


def _agreement(first: str, second: str, counts: Counts) -> PairAgreement:
    equal = int(np.trace(counts))
    return PairAgreement(first, second, int(counts.sum()), equal, cohen_kappa(counts))


def cohen_kappa(counts: Counts) -> float | None:
    """Cohen's kappa (1960); None without latents or where all answers are the same."""
    rows, columns = counts.sum(axis=1), counts.sum(axis=0)
    n = int(rows.sum())
    if np.count_nonzero(rows + columns) < 2:
        return None
    by_chance = float(rows @ columns) / n**2
    return (float(np.trace(counts)) / n - by_chance) / (1 - by_chance)


def _confusions(table: QueueTable, counts: Counts, blind: Counts) -> tuple[Confusion, ...]:
    found = [
        Confusion(table.answers[one], table.answers[other], int(counts[one, other]), int(n_blind))
        for (one, other), n_blind in np.ndenumerate(blind)
        if one != other and counts[one, other]
    ]
    return tuple(sorted(found, key=lambda row: -row.n)[:MOST_CONFUSIONS])


def show_categories(asked: Asked) -> Page:
    """Counts, change and reviewed share of every category."""
    with asked.context.queue(asked.filters) as (session, table):
        setting = table.setting
        drawn = read_randomised_sides(
            session, setting.comparison_id, setting.taxonomy_version_id, setting.judge_id
        )
        seeds = read_further_seeds(
            session, setting.comparison_id, setting.taxonomy_version_id, setting.judge_id
        )
        report = asked.context.report
        further = further_counts(session, seeds, report.denominator)
        rows = change_rows(table, report, drawn, further)
        comparison = session.get_one(Comparison, setting.comparison_id)
        return asked.comparison_page(
            "categories.html.j2",
            "categories",
            table,
            rows=rows,
            basis=read_basis(session, comparison, [row.change for row in rows]),
            denominator=report.denominator,
        )


def show_taxonomy(asked: Asked) -> Page:
    """Every category with its definition."""
    with asked.context.queue(asked.filters) as (_, table):
        return asked.comparison_page(
            "taxonomy.html.j2",
            "taxonomy",
            table,
            categories=table.in_tree_order(),
            target=table.count_by("category", table.is_target, asked.reviewer),
            reference=table.count_by("category", ~table.is_target, asked.reviewer),
        )


def show_progress(asked: Asked) -> Page:
    """How far everybody is, and how far they agree."""
    with asked.context.queue(asked.filters) as (session, table):
        return asked.comparison_page(
            "progress.html.j2",
            "progress",
            table,
            progress=read_progress(session, table),
            curve=read_curve(session, table),
            plot={"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT},
            rows=[row for row in reviewed_rows(table, asked.context.report) if not row.is_empty],
            names=names_of(table.categories),
        )


def show_audit(asked: Asked) -> Page:
    """The active random draws, and the form that makes a new one."""
    with asked.context.queue(asked.filters) as (session, table):
        return asked.comparison_page(
            "audit.html.j2",
            "audit",
            table,
            draws=active_draws(session, table.setting.comparison_id),
            left=int((table.hidden(asked.reviewer)).sum()),
            sizes=_sizes(table),
            size=min(DEFAULT_DRAW, max(_sizes(table).values())),
        )


def _sizes(table: QueueTable) -> dict[str, int]:
    return {
        "target": int(table.is_target.sum()),
        "reference": int((~table.is_target).sum()),
    }


def make_draw(asked: Asked) -> Response:
    """Draw a random sample of both sides."""
    filters, form = asked.filters, asked.form
    size, seed = form.number("size"), form.number("seed")
    if size is None or seed is None:
        raise UsageError("audit: name a size and a seed, both whole numbers")
    with asked.context.writing() as session:
        with asked.context.queue_index.lock:
            table = asked.context.queue_index.table(session, filters.comparison)
            setting, most = table.setting, max(_sizes(table).values())
        if not 1 <= size <= most:
            raise UsageError(
                f"audit size: {size} is not between 1 and {most}, the latents of the larger side"
            )
        for offset, side in enumerate(("target", "reference")):
            draw_audit(session, setting.comparison_id, side, size, seed + offset, asked.reviewer)
    return redirect(f"/audit?{filters.query()}")
