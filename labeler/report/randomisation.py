"""Counts of the categories on the randomised sides of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, select, text
from sqlalchemy.orm import Session

from crosscoder.isolation_rules import RULES, ShiftedRule, stored_rule
from labeler.report.comparisons import COUNTING, OUTCOMES_OF
from labeler.store.effects import EFFECT_WEIGHT
from labeler.store.schema import Comparison, Latent, LatentSet, LatentSetMember, SideDraw
from labeler.store.views.base import DECISION, STANDING, VERDICT, with_tables

if TYPE_CHECKING:
    from taxonomy.counts import CategoryCounts
    from taxonomy.mean_shift import SeedShifts
    from taxonomy.randomisation import DrawnCounts
    from taxonomy.robustness import SweptCategory
    from taxonomy.scrambled import WeightedShift

LEAST_LABELLED = 0.5
"""Labelled latents on a drawn side, relative to the side itself, below which draws say nothing."""

_LABELS = text(
    with_tables(STANDING, DECISION, VERDICT, EFFECT_WEIGHT)
    + """
SELECT l.latent_index, coalesce(d.outcome, v.outcome) AS outcome, k.slug AS category,
       p.slug AS parent, coalesce(rc.rank, lc.rank) AS rank, l.density, l.mean_activation,
       l.p_reappear,
       CASE WHEN EXISTS (SELECT 1 FROM effect_weight) THEN coalesce(e.weight, 0) END AS effect
FROM latent AS l
LEFT JOIN effect_weight AS e ON e.latent_id = l.id
LEFT JOIN decision AS d ON d.latent_id = l.id AND d.taxonomy_version_id = :version
LEFT JOIN verdict AS v
  ON v.latent_id = l.id AND v.taxonomy_version_id = :version AND v.judge_id = :judge
LEFT JOIN review_event_category AS rc ON rc.review_event_id = d.id
LEFT JOIN judge_label_category AS lc ON lc.judge_label_id = v.id AND d.id IS NULL
LEFT JOIN category AS k ON k.id = coalesce(rc.category_id, lc.category_id)
LEFT JOIN category AS p ON p.id = k.parent_id
WHERE l.crosscoder_id = :crosscoder
"""
)
_N_DOCUMENTS = text(
    "SELECT c.n_documents FROM crosscoder AS x JOIN corpus AS c ON c.id = x.corpus_id"
    " WHERE x.id = :crosscoder"
)

PER_SIDE = "latents per side"
"""What is swept where the sides were drawn deeper than they are."""
SWEPT_SIZES = (40, 60, 100, 150, 200, 300, 400)
"""Latents per side at which the change is shown, beside the number that the study has."""
LEAST_SIZES = 3
"""Numbers per side that make a sweep."""


@dataclass(frozen=True)
class SidePrefixes:
    """Both sides in the rule's order, as they are and in every draw: any number can be cut."""

    target_order: NDArray[np.int32]
    """(n,)"""
    reference_order: NDArray[np.int32]
    """(m,)"""
    target: NDArray[np.int32]
    """(R, n)"""
    reference: NDArray[np.int32]
    """(R, m)"""
    own_size: int
    """Latents per side of the study."""

    @property
    def sizes(self) -> list[int]:
        """Numbers per side that both sides have as they are, the study's own among them."""
        depth = min(int((side >= 0).sum()) for side in (self.target_order, self.reference_order))
        return sorted({size for size in (*SWEPT_SIZES, self.own_size) if size <= depth})

    def own(self, size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The sides of so many latents, as one draw."""
        return self.target_order[None, :size], self.reference_order[None, :size]

    def drawn(self, size: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The sides of so many latents in every draw."""
        return self.target[:, :size], self.reference[:, :size]


@dataclass(frozen=True)
class RandomisedSides:
    """The drawn sides of a comparison, and the active label of every latent of its crosscoder."""

    target: NDArray[np.int32]
    """(R, n) latent indices, -1 = none"""
    reference: NDArray[np.int32]
    """(R, m)"""
    shifts: NDArray[np.float32]
    """(1 + G, F) strength shifts, and without each block of documents"""
    labels: tuple[Any, ...]
    """Rows latent_index, outcome, category, parent, rank, density, mean_activation, p_reappear,
    effect."""
    prefixes: SidePrefixes | None = None
    """None where the sides were not drawn deeper than they are."""
    n_documents: int | None = None
    """Documents of the text; None where the database does not know it."""
    squares: NDArray[np.float32] | None = None
    """(F,) sum of the squared activations of each latent; None in older databases."""
    scrambled: NDArray[np.float32] | None = None
    """(K, F) strength shifts in scrambled fine-tunes; None where none were made."""
    is_by_score: bool = False
    """Whether the sides are the latents of the largest shift scores, so that those of a scrambled
    fine-tune are known."""

    def counts(
        self, table: Sequence[CategoryCounts], counting: str, denominator: str
    ) -> DrawnCounts | None:
        """Counts of the table's categories on every drawn side, stretched to scrambled ones.

        None where the drawn sides have too few labelled latents to say what chance does.
        """
        from taxonomy.randomisation import count_draws

        members, counted = self._members([row.category for row in table], counting, denominator)
        drawn = count_draws(self.target, self.reference, members, counted)
        return (
            self._stretched(drawn, members, counted) if _has_enough_labels(drawn, table) else None
        )

    def _stretched(
        self,
        drawn: DrawnCounts,
        members: NDArray[np.bool_],
        counted: NDArray[np.bool_],
        weights: NDArray[np.float64] | None = None,
    ) -> DrawnCounts:
        from taxonomy.randomisation import count_draws
        from taxonomy.scrambled import stretched

        sides = self.scrambled_sides()
        if sides is None:
            return drawn
        return stretched(drawn, count_draws(*sides, members, counted, weights))

    def scrambled_sides(self) -> tuple[NDArray[np.int32], NDArray[np.int32]] | None:
        """The sides (K, n) and (K, m) that the rule takes in each scrambled fine-tune.

        Candidates are the latents that some draw has on a side. None where the rule does not
        choose by the shift score, or there are no scrambled fine-tunes.
        """
        if not self.is_by_score or self.scrambled is None or self.squares is None:
            return None
        drawn = (
            (self.target, self.reference)
            if self.prefixes is None
            else (
                self.prefixes.target,
                self.prefixes.reference,
            )
        )
        is_candidate = np.zeros(self.scrambled.shape[1], dtype=bool)
        for side in drawn:
            is_candidate[side[side >= 0]] = True
        score = self.scrambled.astype(np.float64) * np.sqrt(self.squares)
        score = np.where(is_candidate & np.isfinite(score), score, 0.0)
        return (
            _largest(score, self.target.shape[1]),
            _largest(-score, self.reference.shape[1]),
        )

    def weighted_counts(
        self,
        table: Sequence[CategoryCounts],
        counting: str,
        denominator: str,
        weight_of: Callable[[Any], float | None],
    ) -> DrawnCounts | None:
        """The same with a weight for every label row; latents of unknown weight are left out."""
        from taxonomy.randomisation import count_draws

        members, counted = self._members([row.category for row in table], counting, denominator)
        weights = np.full(len(members), np.nan)
        for row in self.labels:
            weight = weight_of(row)
            weights[row.latent_index] = np.nan if weight is None else weight
        counted &= np.isfinite(weights)
        members &= counted[:, None]
        drawn = count_draws(self.target, self.reference, members, counted)
        if not _has_enough_labels(drawn, table):
            return None
        known = np.where(counted, weights, 0.0)
        weighted = count_draws(self.target, self.reference, members, counted, known)
        return self._stretched(weighted, members, counted, known)

    def shifts_of(
        self, table: Sequence[CategoryCounts], counting: str, denominator: str
    ) -> SeedShifts:
        """Strength shifts of all labelled latents, and their categories among the table's."""
        from taxonomy.mean_shift import SeedShifts

        members, counted = self._members([row.category for row in table], counting, denominator)
        known = self.shifts[:, : len(members)].astype(np.float64)
        return SeedShifts(known, members, counted)

    @property
    def n_scrambled(self) -> int:
        """Scrambled fine-tunes."""
        return 0 if self.scrambled is None else len(self.scrambled)

    def scrambled_shifts_of(
        self, table: Sequence[CategoryCounts], counting: str, denominator: str
    ) -> tuple[NDArray[Any], ...] | None:
        """Shifts (F,), scrambled ones (K, F), squares (F,), members (F, C) and counted (F,).

        None where no scrambled fine-tunes were made.
        """
        if self.scrambled is None or self.squares is None:
            return None
        members, counted = self._members([row.category for row in table], counting, denominator)
        known = slice(len(members))
        return (
            self.shifts[0, known].astype(np.float64),
            self.scrambled[:, known].astype(np.float64),
            self.squares[known].astype(np.float64),
            members,
            counted,
        )

    def swept(
        self, categories: Sequence[str], denominator: str, alpha: float
    ) -> tuple[SweptCategory, ...]:
        """The change at every number of latents per side of which enough are labelled."""
        from taxonomy.randomisation import count_draws, drawn_points
        from taxonomy.robustness import swept_category

        if self.prefixes is None:
            return ()
        labelled = self._members(categories, COUNTING, denominator)
        points = {}
        for size in self.prefixes.sizes:
            sides = count_draws(*self.prefixes.own(size), *labelled)
            drawn = count_draws(*self.prefixes.drawn(size), *labelled)
            if _are_labelled(sides, drawn, size):
                points[size] = drawn_points(categories, float(size), sides, drawn, alpha)
        own = self.prefixes.own_size
        if own not in points or len(points) < LEAST_SIZES:
            return ()
        return tuple(
            swept_category(category, tuple(at[i] for at in points.values()), points[own][i])
            for i, category in enumerate(categories)
        )

    def _members(
        self, categories: Sequence[str], counting: str, denominator: str
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(F, C) latents of each category, and (F,) those of the denominator."""
        n_latents = 1 + max((row.latent_index for row in self.labels), default=0)
        column = {category: i for i, category in enumerate(categories)}
        members = np.zeros((n_latents, len(categories)), dtype=bool)
        counted = np.zeros(n_latents, dtype=bool)
        outcomes = OUTCOMES_OF[denominator]
        for row in self.labels:
            counted[row.latent_index] = (row.outcome or "unlabelled") in outcomes
            if row.category is None or (counting == COUNTING and row.rank != 1):
                continue
            for slug in (row.category, row.parent):
                if slug in column:
                    members[row.latent_index, column[slug]] = True
        return members & counted[:, None], counted


def weighted_shifts_of(
    seeds: Sequence[tuple[RandomisedSides, Sequence[CategoryCounts]]],
    counting: str,
    denominator: str,
) -> list[WeightedShift]:
    """The weighted shift of each of the tables' categories beside the scrambled fine-tunes.

    The latents of several seeds are taken together: each is shifted by the same fine-tunes.
    """
    from taxonomy.scrambled import WeightedShift, weighted_shifts

    table = seeds[0][1]
    known = [sides.scrambled_shifts_of(own, counting, denominator) for sides, own in seeds]
    found = [each for each in known if each is not None]
    if len(found) < len(known) or len({len(each[1]) for each in found}) > 1:
        return [WeightedShift()] * len(table)
    shifts, scrambled, squares, members, counted = zip(*found, strict=True)
    return weighted_shifts(
        np.concatenate(shifts),
        np.concatenate(scrambled, axis=1),
        np.concatenate(squares),
        np.concatenate(members),
        np.concatenate(counted),
        [row.level for row in table],
    )


def read_randomised_sides(
    session: Session, comparison_id: int, taxonomy_version_id: int, judge_id: int
) -> RandomisedSides | None:
    """The draws of a comparison's sides, under its active taxonomy version and judge.

    None where its sides were never drawn.
    """
    comparison = session.get_one(Comparison, comparison_id)
    sets = [
        session.get_one(LatentSet, set_id)
        for set_id in (comparison.target_set_id, comparison.reference_set_id)
    ]
    row = session.execute(select(SideDraw).where(*_of_sides(comparison))).scalar_one_or_none()
    if row is None:
        return None
    drawn = [row.target, row.reference]
    prefixes = None
    if row.has_prefixes:
        members = [_members_of(session, each.id) for each in sets]
        orders = (row.target_order, row.reference_order)
        if _begin_with(orders, members):
            prefixes = SidePrefixes(
                row.target_order, row.reference_order, row.target, row.reference, len(members[0])
            )
        drawn = [side[:, : len(own)] for side, own in zip(drawn, members, strict=True)]
    labels = session.execute(
        _LABELS,
        {
            "version": taxonomy_version_id,
            "judge": judge_id,
            "crosscoder": sets[0].crosscoder_id,
            "comparison": comparison_id,
        },
    )
    return RandomisedSides(
        drawn[0],
        drawn[1],
        row.shifts,
        tuple(labels.all()),
        prefixes,
        session.execute(_N_DOCUMENTS, {"crosscoder": sets[0].crosscoder_id}).scalar_one_or_none(),
        row.squares,
        row.scrambled,
        is_by_score(sets[0]),
    )


def is_by_score(latent_set: LatentSet) -> bool:
    """Whether the set holds the latents of the largest shift scores."""
    if latent_set.rule not in RULES.names():
        return False
    rule = stored_rule(latent_set.rule, latent_set.rule_params)
    return isinstance(rule, ShiftedRule) and rule.order == "score"


def _largest(score: NDArray[np.float64], size: int) -> NDArray[np.int32]:
    """(K, size) indices of the largest positive scores of each row, -1 where there are fewer."""
    order = np.argsort(-score, axis=1, kind="stable")[:, :size]
    chosen = np.where(np.take_along_axis(score, order, axis=1) > 0, order, -1)
    return chosen.astype(np.int32)


def has_draws(session: Session, comparison: Comparison) -> bool:
    """Whether the sides of the comparison were drawn."""
    return session.execute(select(SideDraw.id).where(*_of_sides(comparison))).first() is not None


def _of_sides(comparison: Comparison) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
    return (
        SideDraw.target_set_id == comparison.target_set_id,
        SideDraw.reference_set_id == comparison.reference_set_id,
    )


def _begin_with(orders: tuple[Any, Any], members: Sequence[set[int]]) -> bool:
    """Whether both orders begin with the members of their side, of which both have as many.

    They do not where the rule takes latents out of its order, and are None in older databases.
    """
    if any(order is None for order in orders) or len(members[0]) != len(members[1]):
        return False
    firsts: list[set[int]] = [set(order[: len(members[0])].tolist()) for order in orders]
    return firsts == list(members)


def _members_of(session: Session, latent_set_id: int) -> set[int]:
    """Latent indices of a set."""
    query = (
        select(Latent.latent_index)
        .join(LatentSetMember, LatentSetMember.latent_id == Latent.id)
        .where(LatentSetMember.latent_set_id == latent_set_id)
    )
    return set(session.execute(query).scalars())


def _are_labelled(sides: DrawnCounts, drawn: DrawnCounts, size: int) -> bool:
    """Whether at least `LEAST_LABELLED` of so many latents are labelled, as they are and drawn."""
    totals = [float(side.mean()) for each in (sides, drawn) for side in _totals(each)]
    return min(totals) >= LEAST_LABELLED * size


def _totals(counts: DrawnCounts) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return counts.target_total, counts.reference_total


def _has_enough_labels(drawn: DrawnCounts, table: Sequence[CategoryCounts]) -> bool:
    """Whether the drawn sides have enough latents of the denominator; all rows have its totals."""
    if not table:
        return False
    totals = (table[0].target_total, table[0].reference_total)
    return all(
        float(side.mean()) >= LEAST_LABELLED * total
        for side, total in zip(_totals(drawn), totals, strict=True)
    )
