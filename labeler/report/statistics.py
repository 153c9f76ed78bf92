"""From the counts in the database to category_change_statistic, counted in every way."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Literal, Protocol, get_args

import numpy as np
from sqlalchemy import delete, select, text
from sqlalchemy.orm import Session, aliased

from crosscoder.config import STABLE_FROM
from labeler.report.comparisons import COUNTING, Member, Members
from labeler.report.model import CategoryRow
from labeler.report.seeds import SeedCounts
from labeler.store.schema import Category, CategoryChangeStatistic
from labeler.study.config import Denominator
from taxonomy.counts import ALPHA, CategoryChange, CategoryCounts

if TYPE_CHECKING:
    from labeler.report.randomisation import RandomisedSides
    from labeler.report.seeds import FurtherSeed
    from taxonomy.change import WeightedLatents
    from taxonomy.counts import ExactTest
    from taxonomy.mean_shift import MeanShift
    from taxonomy.randomisation import DrawnCounts


WEIGHTING = "none"
_NOT_IN_ROWS = frozenset(
    {"id", "report_run_id", "computed_at", "comparison_id", "taxonomy_version_id", "is_main"}
)
ROW_COLUMNS = tuple(
    column.name
    for column in CategoryChangeStatistic.__table__.columns
    if column.name not in _NOT_IN_ROWS
)
"""What a row of the change table stores: every column but those that say which report's it is."""

_COUNTS = text(
    "SELECT category, level, parent, target_count, reference_count"
    " FROM v_category_change WHERE comparison = :comparison"
)
_TOTALS = text(
    "SELECT side, labelled, assigned, isolated FROM v_coverage WHERE comparison = :comparison"
)


def read_counts(session: Session, comparison: str, denominator: str) -> list[CategoryCounts]:
    """The counts of every category; the totals are the latents of the denominator.

    `labelled` counts latents assigned or none, `assigned` those with a category, `isolated` all.
    """
    totals = {
        row.side: int(getattr(row, denominator))
        for row in session.execute(_TOTALS, {"comparison": comparison})
    }
    return [
        CategoryCounts(
            **row,
            target_total=totals.get("target", 0),
            reference_total=totals.get("reference", 0),
        )
        for row in session.execute(_COUNTS, {"comparison": comparison}).mappings()
    ]


@dataclass(frozen=True)
class CategoryNode:
    """A category, its title, and its position in the tree."""

    category: str
    name: str
    level: int
    parent: str | None


def compute_rows(
    session: Session,
    comparison: str,
    nodes: Sequence[CategoryNode],
    denominator: str,
    alpha: float,
    test: ExactTest = "fisher",
    sides: RandomisedSides | None = None,
    seeds: Sequence[FurtherSeed] = (),
) -> tuple[CategoryRow, ...]:
    """The statistics of every category of the active version, each group before its categories.

    From the counts of the view v_category_change: p and intervals of the randomisation over
    documents where the sides were drawn, else the exact test's p and the score interval; q by
    Benjamini and Hochberg. With further seeds, over all of them.
    """
    counts = read_counts(session, comparison, denominator)
    changes = category_changes(
        counts,
        sides,
        COUNTING,
        denominator,
        alpha=alpha,
        test=test,
        further=further_counts(session, seeds, denominator),
    )
    return rows_of(changes, nodes, counting=COUNTING, weighting=WEIGHTING, denominator=denominator)


def further_counts(
    session: Session, seeds: Sequence[FurtherSeed], denominator: str
) -> list[SeedCounts]:
    """What the other seeds count as the labels stand, in the leading way."""
    return [
        SeedCounts(read_counts(session, seed.comparison, denominator), seed.sides) for seed in seeds
    ]


def category_changes(
    counts: Sequence[CategoryCounts],
    sides: RandomisedSides | None,
    counting: str,
    denominator: str,
    *,
    alpha: float,
    test: ExactTest,
    detectable: bool = True,
    further: Sequence[SeedCounts] = (),
) -> list[CategoryChange]:
    """The statistics of counts: by the drawn sides where enough of their latents are labelled.

    `further` are the counts of other seeds: with them the statistics are over all seeds.
    """
    from taxonomy.change import change_statistics, seed_change_statistics

    own = [SeedCounts(counts, sides), *(each.in_order_of(counts) for each in further)]
    found = [(each.sides, each.drawn(counting, denominator)) for each in own]
    known = [(side, drawn) for side, drawn in found if side is not None and drawn is not None]
    if len(known) < len(own):
        if further:
            return seed_change_statistics([each.counts for each in own], alpha)
        return change_statistics(counts, alpha, test, detectable=detectable)
    from labeler.report.randomisation import weighted_shifts_of

    changes = _randomised([each.counts for each in own], known, alpha)
    shifts = _shifts(own, [side for side, _ in known], counting, denominator)
    first, _ = known[0]
    return [
        replace(
            change,
            mean_shift=shift.mean_shift,
            mean_shift_low=shift.mean_shift_low,
            mean_shift_high=shift.mean_shift_high,
            mean_shift_q=shift.mean_shift_q,
            relative_shift=shift.relative_shift,
            relative_shift_low=shift.relative_shift_low,
            relative_shift_high=shift.relative_shift_high,
            relative_shift_q=shift.relative_shift_q,
            n_shifted=shift.n_shifted,
            weighted_shift=weighted.weighted_shift,
            scrambled_low=weighted.scrambled_low,
            scrambled_high=weighted.scrambled_high,
            weighted_shift_q=weighted.weighted_shift_q,
            n_scrambled=first.n_scrambled or None,
            n_shifts_alike=shift.n_shifts_alike,
        )
        for change, shift, weighted in zip(
            changes,
            shifts,
            weighted_shifts_of(
                [(side, each.counts) for (side, _), each in zip(known, own, strict=True)],
                counting,
                denominator,
            ),
            strict=True,
        )
    ]


def _randomised(
    tables: Sequence[Sequence[CategoryCounts]],
    known: Sequence[tuple[RandomisedSides, DrawnCounts]],
    alpha: float,
) -> Sequence[CategoryChange]:
    from taxonomy.over_seeds import pooled, seed_spreads
    from taxonomy.randomisation import pooled_draws, randomised_change_statistics

    drawn = pooled_draws([each for _, each in known])
    spreads = seed_spreads(tables) if len(tables) > 1 else None
    changes = randomised_change_statistics(pooled(tables), drawn, alpha, spreads)
    return _advised(changes, known[0][0], drawn, alpha)


def _shifts(
    seeds: Sequence[SeedCounts],
    sides: Sequence[RandomisedSides],
    counting: str,
    denominator: str,
) -> list[MeanShift]:
    from taxonomy.mean_shift import mean_shifts_over_seeds

    known = [
        side.shifts_of(seed.counts, counting, denominator)
        for seed, side in zip(seeds, sides, strict=True)
    ]
    return mean_shifts_over_seeds(known, [row.level for row in seeds[0].counts])


def _advised(
    changes: Sequence[CategoryChange], sides: RandomisedSides, drawn: DrawnCounts, alpha: float
) -> Sequence[CategoryChange]:
    """The rows with what so many documents show, and how many a change would need."""
    from taxonomy.power import text_advice

    if sides.n_documents is None:
        return changes
    advice = text_advice(changes, drawn, sides.n_documents, alpha)
    return [replace(change, **vars(each)) for change, each in zip(changes, advice, strict=True)]


def rows_of(
    changes: Sequence[CategoryChange],
    nodes: Sequence[CategoryNode],
    *,
    counting: str,
    weighting: str,
    denominator: str,
) -> tuple[CategoryRow, ...]:
    """Rows of one way of counting, each group before its categories."""
    names = {node.category: node.name for node in nodes}
    rows = [
        CategoryRow(
            **vars(change),
            name=names.get(change.category, change.category),
            counting=counting,
            weighting=weighting,
            denominator=denominator,
        )
        for change in changes
    ]
    return in_tree_order(rows, list(names))


def read_category_nodes(session: Session, taxonomy_version_id: int) -> tuple[CategoryNode, ...]:
    """Every category of a version, in the order of the taxonomy."""
    parent = aliased(Category)
    rows = session.execute(
        select(Category.slug, Category.name, Category.level, parent.slug.label("parent"))
        .outerjoin(parent, parent.id == Category.parent_id)
        .where(Category.taxonomy_version_id == taxonomy_version_id)
        .order_by(Category.position, Category.id)
    )
    return tuple(CategoryNode(row.slug, row.name, row.level, row.parent) for row in rows)


def category_names(session: Session, taxonomy_version_id: int) -> dict[str, str]:
    """Title by slug, in the order of the taxonomy."""
    rows = session.execute(
        select(Category.slug, Category.name)
        .where(Category.taxonomy_version_id == taxonomy_version_id)
        .order_by(Category.position, Category.id)
    )
    return {row.slug: row.name for row in rows}


def in_tree_order(rows: Sequence[CategoryRow], slugs: Sequence[str]) -> tuple[CategoryRow, ...]:
    """The rows with each group before its categories, both in the order of `slugs`."""
    position = {slug: index for index, slug in enumerate(slugs)}
    last = len(position)

    def key(row: CategoryRow) -> tuple[int, int, int, str]:
        group = row.parent or row.category
        own = position.get(row.category, last)
        return position.get(group, last), 0 if row.parent is None else 1, own, row.category

    return tuple(sorted(rows, key=key))


def write_rows(
    session: Session,
    rows: Sequence[CategoryRow],
    others: Sequence[CategoryRow] = (),
    *,
    report_run_id: int,
    comparison_id: int,
    taxonomy_version_id: int,
    computed_at: datetime,
) -> None:
    """Store the rows of one comparison under a report's run, replacing those it wrote before.

    `rows` are those the report leads with, `others` those of the other ways of counting.
    """
    session.execute(
        delete(CategoryChangeStatistic).where(
            CategoryChangeStatistic.report_run_id == report_run_id,
            CategoryChangeStatistic.comparison_id == comparison_id,
        )
    )
    session.add_all(
        CategoryChangeStatistic(
            report_run_id=report_run_id,
            comparison_id=comparison_id,
            taxonomy_version_id=taxonomy_version_id,
            computed_at=computed_at,
            is_main=is_main,
            **{name: getattr(row, name) for name in ROW_COLUMNS},
        )
        for is_main, some in ((True, rows), (False, others))
        for row in some
    )


Counting = Literal["primary", "any"]
Weighting = Literal["none", "frequency", "mass", "effect", "stable"]
COUNTINGS: tuple[Counting, ...] = ("primary", "any")
WEIGHTINGS: tuple[Weighting, ...] = get_args(Weighting)
DENOMINATORS: tuple[Denominator, ...] = get_args(Denominator)


@dataclass(frozen=True)
class Variants:
    """The rows of every way of counting, and why a weighting is missing."""

    rows: tuple[CategoryRow, ...]
    missing: tuple[str, ...] = ()


def compute_variants(
    members: Members,
    nodes: Sequence[CategoryNode],
    *,
    test: ExactTest = "fisher",
    alpha: float = ALPHA,
    sides: RandomisedSides | None = None,
) -> Variants:
    """Count the active labels in every way that the latents' data allow."""
    rows: list[CategoryRow] = []
    missing: dict[str, str] = {}
    every = (*members.target, *members.reference)
    has_seeds = any(member.p_reappear is not None for member in every)
    weightings = [each for each in WEIGHTINGS if each != "stable" or has_seeds]
    for denominator in DENOMINATORS:
        target, reference = (
            [member for member in side if member.is_in(denominator)]
            for side in (members.target, members.reference)
        )
        for counting in COUNTINGS:
            counts = count_latents(nodes, target, reference, counting)
            for weighting in weightings:
                reason = _unweighable((*target, *reference), weighting, denominator)
                if reason is not None:
                    missing.setdefault(weighting, reason)
                    continue
                if weighting == "none":
                    changes = category_changes(
                        counts,
                        sides,
                        counting,
                        denominator,
                        alpha=alpha,
                        test=test,
                        detectable=False,
                    )
                else:
                    latents = [_weighted(side, counting, weighting) for side in (target, reference)]
                    way = (counting, denominator, weighting)
                    changes = _weighted_changes(counts, latents[0], latents[1], sides, way, alpha)
                rows += rows_of(
                    changes, nodes, counting=counting, weighting=weighting, denominator=denominator
                )
    return Variants(tuple(rows), tuple(missing.values()))


def count_latents(
    nodes: Sequence[CategoryNode],
    target: Sequence[Member],
    reference: Sequence[Member],
    counting: str,
) -> list[CategoryCounts]:
    """Latents of each category; a parent counts a latent once, however many children it has."""
    inside = [_rows_by_category(side, counting) for side in (target, reference)]
    return [
        CategoryCounts(
            category=node.category,
            level=node.level,
            parent=node.parent,
            target_count=len(inside[0].get(node.category, ())),
            target_total=len(target),
            reference_count=len(inside[1].get(node.category, ())),
            reference_total=len(reference),
        )
        for node in nodes
    ]


def _weighted_changes(
    counts: Sequence[CategoryCounts],
    target: WeightedLatents,
    reference: WeightedLatents,
    sides: RandomisedSides | None,
    way: tuple[Counting, Denominator, Weighting],
    alpha: float,
) -> list[CategoryChange]:
    """By the drawn sides where enough of their latents have a label and a weight."""
    from taxonomy.change import weighted_change_statistics
    from taxonomy.randomisation import weighted_randomised_change_statistics

    counting, denominator, weighting = way
    weights = np.concatenate([target.weights, reference.weights])
    unit = float(weights.mean()) if weights.any() else 1.0

    def in_units(latent: WeighedLatent) -> float | None:
        weight = weight_of(latent, weighting)
        return None if weight is None else weight / unit

    drawn = (
        None if sides is None else sides.weighted_counts(counts, counting, denominator, in_units)
    )
    if drawn is None:
        return weighted_change_statistics(counts, target, reference, alpha)
    return weighted_randomised_change_statistics(
        counts, target.in_units(unit), reference.in_units(unit), drawn, alpha
    )


def _weighted(side: Sequence[Member], counting: str, weighting: Weighting) -> WeightedLatents:
    from taxonomy.change import WeightedLatents

    rows = _rows_by_category(side, counting)
    return WeightedLatents(
        np.array([weight_of(member, weighting) for member in side], dtype=np.float64),
        {category: np.array(indices) for category, indices in rows.items()},
    )


class WeighedLatent(Protocol):
    """What the weight of a latent is made of."""

    @property
    def density(self) -> float | None:
        """Fraction of tokens on which it fires."""

    @property
    def mean_activation(self) -> float | None:
        """Over the tokens on which it fires."""

    @property
    def effect(self) -> float | None:
        """Mean |attribution| of the output gap in both directions."""

    @property
    def p_reappear(self) -> float | None:
        """Share of the crosscoders of other seeds with a counterpart."""


def weight_of(member: WeighedLatent, weighting: Weighting) -> float | None:
    """What a latent counts; None where the fact it needs is unknown."""
    if weighting == "none":
        return 1.0
    if weighting == "effect":
        return member.effect
    if weighting == "stable":
        return None if member.p_reappear is None else float(member.p_reappear >= STABLE_FROM)
    if member.density is None or weighting == "frequency":
        return member.density
    return None if member.mean_activation is None else member.density * member.mean_activation


def _rows_by_category(side: Sequence[Member], counting: str) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, member in enumerate(side):
        for category in member.counted_for(counting):
            rows[category].append(index)
    return rows


_FACTS = {
    "frequency": "density",
    "mass": "density or mean activation",
    "effect": "measured effect",
    "stable": "comparison with other seeds",
}
"""What a weight is made of."""


def _unweighable(latents: Sequence[Member], weighting: Weighting, denominator: str) -> str | None:
    unknown = sum(weight_of(member, weighting) is None for member in latents)
    if not unknown:
        return None
    fact = _FACTS[weighting]
    return f"{weighting}-weighted: {unknown} of {len(latents)} {denominator} latents have no {fact}"
