"""The queues of all comparisons in memory, with progress and the category table they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any

from sqlalchemy import Engine, select, text
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.report.comparisons import COUNTING
from labeler.report.randomisation import RandomisedSides
from labeler.report.seeds import SeedCounts
from labeler.report.statistics import category_changes
from labeler.review.learning_curve import read_next_reviews
from labeler.review.queue_table import Leaf, Mask, QueueTable
from labeler.review.queued_latents import Setting, read_queued_latents, read_settings
from labeler.store.comparisons import NamedComparison, study_comparisons
from labeler.store.engine import read_session
from labeler.store.schema import Category
from labeler.study.config import ReportSection
from taxonomy.counts import ALPHA, CategoryChange, CategoryCounts

LATE_EVENTS = 200
"""Events looked at again: on PostgreSQL a lower id may be committed after a higher one."""
MANY_EVENTS = 5_000
"""New events beyond which everything is read afresh."""


@dataclass(frozen=True)
class _Mark:
    """What the database looked like: `basis` changes rarely and asks for a full reading."""

    basis: tuple[Any, ...]
    n_members: int
    last_event: int
    labels_changed_at: Any


class QueueIndex:
    """The queues, shared by the server's threads; hold `lock` while a queue is read."""

    def __init__(self, engine: Engine, named: Sequence[NamedComparison] | None = None) -> None:
        self.engine = engine
        self._named = named
        self.lock = RLock()
        self._tables: dict[str, QueueTable] = {}
        self._marks: dict[str, _Mark] = {}

    def names(self) -> list[str]:
        """Comparisons that can be reviewed, in the study's order; UsageError for none."""
        with read_session(self.engine) as session:
            return list(self._settings(session))

    def _settings(self, session: Session) -> dict[str, Setting]:
        settings = {one.comparison: one for one in read_settings(session, self._named)}
        if not settings:
            raise UsageError(
                "review: no comparison is labelled yet; "
                f"{study_comparisons(session, self._named).why_none}"
            )
        return settings

    def table(self, session: Session, comparison: str = "") -> QueueTable:
        """The current queue of a comparison, or of the first one; hold `lock`.

        UsageError where there is no such comparison, or none at all.
        """
        settings = self._settings(session)
        if comparison and comparison not in settings:
            raise UsageError(f"comparison: {comparison!r} is not one of {', '.join(settings)}")
        setting = settings[comparison or next(iter(settings))]
        name = setting.comparison
        known = self._marks.get(name)
        mark = _mark(session, setting, known)
        if known is None or self._is_unexplained(known, mark):
            self._tables[name] = _load(session, setting)
        elif known != mark:
            self._take_events(session, setting, known, mark)
        self._marks[name] = mark
        return self._tables[name]

    def _is_unexplained(self, known: _Mark, mark: _Mark) -> bool:
        """Something other than a few decisions has changed the queue."""
        if (known.basis, known.n_members) != (mark.basis, mark.n_members):
            return True
        n_new = mark.last_event - known.last_event
        return n_new > MANY_EVENTS or (
            n_new == 0 and known.labels_changed_at != mark.labels_changed_at
        )

    def _take_events(self, session: Session, setting: Setting, known: _Mark, mark: _Mark) -> None:
        has_one_writer = session.get_bind().dialect.name == "sqlite"
        late = 0 if has_one_writer else LATE_EVENTS
        latents = session.execute(
            text("SELECT DISTINCT latent_id FROM review_event WHERE id > :last"),
            {"last": known.last_event - late},
        ).scalars()
        table = self._tables[setting.comparison]
        mine = [latent_id for latent_id in latents if latent_id in table.rows_of]
        table.replace(read_queued_latents(session, setting, mine))


def _load(session: Session, setting: Setting) -> QueueTable:
    return QueueTable(
        setting,
        read_categories(session, setting),
        read_queued_latents(session, setting),
        read_next_reviews(session, setting),
    )


def read_categories(session: Session, setting: Setting) -> list[Leaf]:
    """The categories of the active version, in the order of the taxonomy."""
    rows = list(
        session.execute(
            select(Category)
            .where(Category.taxonomy_version_id == setting.taxonomy_version_id)
            .order_by(Category.position, Category.id)
        ).scalars()
    )
    slugs = {row.id: row.slug for row in rows}
    return [
        Leaf(
            slug=row.slug,
            name=row.name,
            parent=None if row.parent_id is None else slugs[row.parent_id],
            definition=row.definition,
            include_when=row.include_when,
            exclude_when=row.exclude_when,
        )
        for row in rows
    ]


_BASIS = text(
    """
SELECT target_set_id, reference_set_id, labels_changed_at,
       (SELECT max(id) FROM comparison_setting) AS last_setting,
       (SELECT max(id) FROM judge_label) AS last_label,
       (SELECT max(id) FROM explanation) AS last_explanation,
       (SELECT max(id) FROM audit_draw) AS last_draw,
       (SELECT max(id) FROM run WHERE kind = 'categorize' AND status = 'done') AS last_run,
       (SELECT max(id) FROM review_event) AS last_event
FROM comparison AS c WHERE id = :comparison_id
"""
)


_MEMBERS = text(
    "SELECT count(*) FROM latent_set_member WHERE latent_set_id IN (:target, :reference)"
)


def _mark(session: Session, setting: Setting, known: _Mark | None) -> _Mark:
    row = session.execute(_BASIS, {"comparison_id": setting.comparison_id}).one()
    if known is not None and known.labels_changed_at == row.labels_changed_at:
        # Whatever gives a comparison other latents also labels them.
        n_members = known.n_members
    else:
        sides = {"target": row.target_set_id, "reference": row.reference_set_id}
        n_members = session.execute(_MEMBERS, sides).scalar_one()
    basis = (
        setting, row.target_set_id, row.reference_set_id, row.last_setting,
        row.last_label, row.last_explanation, row.last_draw, row.last_run,
    )  # fmt: skip
    return _Mark(basis, n_members, row.last_event or 0, row.labels_changed_at)


COUNTED: Mapping[str, Callable[[QueueTable], Mask]] = {
    "labelled": QueueTable.labelled,
    "assigned": QueueTable.assigned,
    "isolated": QueueTable.isolated,
}
"""Which latents a share is a share of, by `report.denominator`."""


@dataclass(frozen=True)
class ReviewedCategory:
    """How much of one category people have looked at."""

    category: str
    name: str
    level: int
    n_reviewed: int
    n_latents: int

    @property
    def reviewed_share(self) -> float | None:
        """Share of the category's latents whose label is a reviewer's; None without any."""
        return self.n_reviewed / self.n_latents if self.n_latents else None

    @property
    def is_empty(self) -> bool:
        """Whether neither side has a latent of the category."""
        return self.n_latents == 0


@dataclass(frozen=True)
class ChangeRow(ReviewedCategory):
    """One category with its change."""

    change: CategoryChange


def reviewed_rows(table: QueueTable, report: ReportSection) -> list[ReviewedCategory]:
    """Every category of the active version, each group before its categories; none is tested."""
    counted = COUNTED[report.denominator](table)
    reviewed = table.count_by("category", table.reviewed & counted, "")
    every = table.count_by("category", counted, "")
    return [
        ReviewedCategory(slug, leaf.name, _level(leaf), reviewed[slug], every[slug])
        for slug, leaf in table.in_tree_order()
    ]


def change_rows(
    table: QueueTable,
    report: ReportSection,
    drawn: RandomisedSides | None = None,
    further: Sequence[SeedCounts] = (),
) -> list[ChangeRow]:
    """The same categories, counted on each side and tested as the report tests them.

    `further` are the counts of other seeds.
    """
    counted = COUNTED[report.denominator](table)
    target, reference = table.is_target & counted, ~table.is_target & counted
    totals = int(target.sum()), int(reference.sum())
    on_target = table.count_by("category", target, "")
    on_reference = table.count_by("category", reference, "")
    rows = [
        CategoryCounts(
            category=slug,
            level=_level(leaf),
            parent=leaf.parent,
            target_count=on_target[slug],
            target_total=totals[0],
            reference_count=on_reference[slug],
            reference_total=totals[1],
        )
        for slug, leaf in table.in_tree_order()
    ]
    changes = category_changes(
        rows,
        drawn,
        COUNTING,
        report.denominator,
        alpha=ALPHA,
        test=report.test,
        detectable=False,
        further=further,
    )
    return [
        ChangeRow(**vars(row), change=change)
        for row, change in zip(reviewed_rows(table, report), changes, strict=True)
    ]


def _level(leaf: Leaf) -> int:
    return 1 if leaf.parent is None else 2
