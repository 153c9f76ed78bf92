"""Keeps the table of effective labels current, in the transaction of each change."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import and_, delete, func, insert, or_, select
from sqlalchemy.orm import Session

from crosscoder.config import SIDES
from labeler.store.effective_rule import CategoryChoice, Choice, Setting, choose
from labeler.store.schema import (
    CategoryChangeStatistic,
    Comparison,
    ComparisonSetting,
    EffectiveLabel,
    EffectiveLabelCategory,
    Judge,
    Latent,
    LatentSet,
    LatentSetMember,
    SideDraw,
    utc_now,
)
from labeler.store.statements import chunks

CLOCK_TICK = timedelta(microseconds=1)
"""Resolution of times in both databases."""


@dataclass(frozen=True)
class Place:
    """A latent on a side of a comparison."""

    comparison_id: int
    side: str
    latent_id: int


def refresh_effective(
    session: Session,
    *,
    comparison_ids: Collection[int] = (),
    latent_ids: Collection[int] = (),
) -> int:
    """Recompute the labels of whole comparisons or of single latents; returns how many changed.

    Call it after the writes, in their transaction. Changed comparisons get a new timestamp, which
    makes their reports stale. So do comparisons whose sides were drawn from the dictionary of the
    latents: their tests and mean shifts count every label of it.
    """
    session.flush()
    whole = set(comparison_ids)
    touched = whole | _comparisons_of(session, latent_ids)
    for comparison_id in _drawn_from(session, latent_ids) - touched:
        stamp_change(session, comparison_id)
    if not touched:
        return 0
    _lock(session, touched)
    settings = _settings(session, touched)
    changed = 0
    for comparison_id in sorted(touched):
        latents = None if comparison_id in whole else set(latent_ids)
        n = _refresh_one(session, comparison_id, settings.get(comparison_id), latents)
        if n:
            stamp_change(session, comparison_id)
        changed += n
    session.flush()
    return changed


def stamp_change(session: Session, comparison_id: int) -> None:
    """Record that a comparison's labels have changed, which makes its reports stale.

    The timestamp is later than the one before and than every report, whatever the clock says. So
    two changes at the same time differ, and a clock set back hides no change.
    """
    comparison = session.get_one(Comparison, comparison_id)
    reported = session.execute(
        select(func.max(CategoryChangeStatistic.computed_at)).where(
            CategoryChangeStatistic.comparison_id == comparison_id
        )
    ).scalar()
    earlier = [moment for moment in (comparison.labels_changed_at, reported) if moment is not None]
    comparison.labels_changed_at = max([utc_now(), *(each + CLOCK_TICK for each in earlier)])


def _comparisons_of(session: Session, latent_ids: Collection[int]) -> set[int]:
    found: set[int] = set()
    for part in chunks(set(latent_ids)):
        sets = select(LatentSetMember.latent_set_id).where(LatentSetMember.latent_id.in_(part))
        query = select(Comparison.id).where(
            or_(Comparison.target_set_id.in_(sets), Comparison.reference_set_id.in_(sets))
        )
        found |= set(session.execute(query).scalars())
    return found


def _drawn_from(session: Session, latent_ids: Collection[int]) -> set[int]:
    """Comparisons with drawn sides of a dictionary that has one of the latents."""
    found: set[int] = set()
    for part in chunks(set(latent_ids)):
        dictionaries = select(Latent.crosscoder_id).where(Latent.id.in_(part))
        query = (
            select(Comparison.id)
            .join(
                SideDraw,
                and_(
                    SideDraw.target_set_id == Comparison.target_set_id,
                    SideDraw.reference_set_id == Comparison.reference_set_id,
                ),
            )
            .join(LatentSet, LatentSet.id == Comparison.target_set_id)
            .where(LatentSet.crosscoder_id.in_(dictionaries))
        )
        found |= set(session.execute(query).scalars())
    return found


def _lock(session: Session, comparison_ids: Iterable[int]) -> None:
    """Serialise refreshes of one comparison (SQLite has one writer anyway).

    Without this, two transactions could each compute a label without the other's write.
    """
    session.execute(
        select(Comparison.id)
        .where(Comparison.id.in_(sorted(comparison_ids)))
        .order_by(Comparison.id)
        .with_for_update(key_share=True)
    ).all()


def _settings(session: Session, comparison_ids: Collection[int]) -> dict[int, Setting]:
    newest = (
        select(func.max(ComparisonSetting.id))
        .where(ComparisonSetting.comparison_id.in_(comparison_ids))
        .group_by(ComparisonSetting.comparison_id)
    )
    rows = session.execute(
        select(
            ComparisonSetting.comparison_id,
            ComparisonSetting.taxonomy_version_id,
            ComparisonSetting.judge_id,
            Judge.is_import,
        )
        .join(Judge, Judge.id == ComparisonSetting.judge_id)
        .where(ComparisonSetting.id.in_(newest))
    )
    return {
        row.comparison_id: Setting(row.taxonomy_version_id, row.judge_id, row.is_import)
        for row in rows
    }


def _refresh_one(
    session: Session, comparison_id: int, setting: Setting | None, latents: set[int] | None
) -> int:
    members = _members(session, comparison_id, latents)
    present = _present(session, comparison_id, latents)
    choices = choose(session, setting, sorted({place.latent_id for place in members}))
    wanted = {place: choices[place.latent_id] for place in members}
    gone = [place for place in present if place not in wanted]
    changed = [place for place, choice in wanted.items() if present.get(place) != choice]
    _remove(session, [*gone, *(place for place in changed if place in present)])
    _insert(session, {place: wanted[place] for place in changed})
    return len(gone) + len(changed)


def _parts(latents: set[int] | None) -> Iterator[list[int] | None]:
    return iter([None]) if latents is None else chunks(latents)


def _members(session: Session, comparison_id: int, latents: set[int] | None) -> list[Place]:
    comparison = session.get_one(Comparison, comparison_id)
    sides = {"target": comparison.target_set_id, "reference": comparison.reference_set_id}
    places: list[Place] = []
    for side, latent_set_id in sides.items():
        for part in _parts(latents):
            query = select(LatentSetMember.latent_id).where(
                LatentSetMember.latent_set_id == latent_set_id
            )
            if part is not None:
                query = query.where(LatentSetMember.latent_id.in_(part))
            found = session.execute(query).scalars()
            places += [Place(comparison_id, side, latent_id) for latent_id in found]
    return places


def _present(session: Session, comparison_id: int, latents: set[int] | None) -> dict[Place, Choice]:
    categories = _present_categories(session, comparison_id, latents)
    present: dict[Place, Choice] = {}
    for part in _parts(latents):
        query = select(EffectiveLabel).where(EffectiveLabel.comparison_id == comparison_id)
        if part is not None:
            query = query.where(EffectiveLabel.side.in_(SIDES), EffectiveLabel.latent_id.in_(part))
        for row in session.connection().execute(query):
            place = Place(comparison_id, row.side, row.latent_id)
            present[place] = Choice(
                outcome=row.outcome,
                source=row.source,
                taxonomy_version_id=row.taxonomy_version_id,
                judge_label_id=row.judge_label_id,
                review_event_id=row.review_event_id,
                explanation_id=row.explanation_id,
                categories=tuple(categories.get(place, ())),
            )
    return present


def _present_categories(
    session: Session, comparison_id: int, latents: set[int] | None
) -> dict[Place, list[CategoryChoice]]:
    table = EffectiveLabelCategory
    categories: dict[Place, list[CategoryChoice]] = defaultdict(list)
    for part in _parts(latents):
        query = select(table).where(table.comparison_id == comparison_id).order_by(table.rank)
        if part is not None:
            query = query.where(table.side.in_(SIDES), table.latent_id.in_(part))
        for row in session.connection().execute(query):
            place = Place(comparison_id, row.side, row.latent_id)
            categories[place].append(CategoryChoice(row.rank, row.category_id, row.confidence))
    return categories


def _remove(session: Session, places: Sequence[Place]) -> None:
    sides: dict[tuple[int, str], list[int]] = defaultdict(list)
    for place in places:
        sides[place.comparison_id, place.side].append(place.latent_id)
    for table in (EffectiveLabelCategory, EffectiveLabel):
        for (comparison_id, side), latent_ids in sides.items():
            for part in chunks(latent_ids):
                # Column by column, because SQLite uses no index for a tuple in a list.
                session.execute(
                    delete(table)
                    .where(
                        table.comparison_id == comparison_id,
                        table.side == side,
                        table.latent_id.in_(part),
                    )
                    .execution_options(synchronize_session=False)
                )


def _insert(session: Session, choices: Mapping[Place, Choice]) -> None:
    if not choices:
        return
    session.execute(
        insert(EffectiveLabel),
        [
            place.__dict__
            | {
                "outcome": choice.outcome,
                "source": choice.source,
                "taxonomy_version_id": choice.taxonomy_version_id,
                "judge_label_id": choice.judge_label_id,
                "review_event_id": choice.review_event_id,
                "explanation_id": choice.explanation_id,
            }
            for place, choice in choices.items()
        ],
    )
    categories = [
        place.__dict__ | category.__dict__
        for place, choice in choices.items()
        for category in choice.categories
    ]
    if categories:
        session.execute(insert(EffectiveLabelCategory), categories)
