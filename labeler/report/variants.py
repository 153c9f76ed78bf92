"""The change counted in every way: primary or any label, three denominators, three weightings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from labeler.report.members import Member, Members
from labeler.report.rows import CategoryRow
from labeler.report.statistics import CategoryPlace, rows_of
from labeler.sections.counting import Denominator
from taxonomy.counts import CategoryChange, CategoryCounts
from taxonomy.significance import ALPHA

if TYPE_CHECKING:
    from taxonomy.change import ExactTest
    from taxonomy.weighted import WeightedLatents

Counting = Literal["primary", "any"]
Weighting = Literal["none", "frequency", "mass"]
COUNTINGS: tuple[Counting, ...] = ("primary", "any")
WEIGHTINGS: tuple[Weighting, ...] = ("none", "frequency", "mass")
DENOMINATORS: tuple[Denominator, ...] = get_args(Denominator)
WEIGHTING_MEANINGS: Mapping[str, str] = {
    "none": "every latent counts once",
    "frequency": "a latent counts by its density, the share of tokens it fires on",
    "mass": "a latent counts by its density times its mean activation",
}


@dataclass(frozen=True)
class Variants:
    """The rows of every way of counting, and why a weighting is missing."""

    rows: tuple[CategoryRow, ...]
    missing: tuple[str, ...] = ()


def compute_variants(
    members: Members,
    places: Sequence[CategoryPlace],
    *,
    test: ExactTest = "fisher",
    alpha: float = ALPHA,
) -> Variants:
    """Count the labels in force in every way that the latents' facts allow."""
    rows: list[CategoryRow] = []
    missing: dict[str, str] = {}
    for denominator in DENOMINATORS:
        target, reference = (
            [member for member in side if member.is_in(denominator)]
            for side in (members.target, members.reference)
        )
        for counting in COUNTINGS:
            counts = count_latents(places, target, reference, counting)
            for weighting in WEIGHTINGS:
                reason = _unweighable((*target, *reference), weighting, denominator)
                if reason is not None:
                    missing.setdefault(weighting, reason)
                    continue
                changes = _changes(counts, target, reference, counting, weighting, test, alpha)
                rows += rows_of(
                    changes, places, counting=counting, weighting=weighting, denominator=denominator
                )
    return Variants(tuple(rows), tuple(missing.values()))


def count_latents(
    places: Sequence[CategoryPlace],
    target: Sequence[Member],
    reference: Sequence[Member],
    counting: str,
) -> list[CategoryCounts]:
    """Latents of each category; a parent counts a latent once, however many children it has."""
    inside = [_rows_by_category(side, counting) for side in (target, reference)]
    return [
        CategoryCounts(
            category=place.category,
            level=place.level,
            parent=place.parent,
            target_count=len(inside[0].get(place.category, ())),
            target_total=len(target),
            reference_count=len(inside[1].get(place.category, ())),
            reference_total=len(reference),
        )
        for place in places
    ]


def _changes(
    counts: Sequence[CategoryCounts],
    target: Sequence[Member],
    reference: Sequence[Member],
    counting: Counting,
    weighting: Weighting,
    test: ExactTest,
    alpha: float,
) -> list[CategoryChange]:
    from taxonomy.change import change_statistics
    from taxonomy.weighted import weighted_change_statistics

    if weighting == "none":
        return change_statistics(counts, alpha, test, detectable=False)
    return weighted_change_statistics(
        counts,
        _weighted(target, counting, weighting),
        _weighted(reference, counting, weighting),
        alpha,
    )


def _weighted(side: Sequence[Member], counting: str, weighting: Weighting) -> WeightedLatents:
    from taxonomy.weighted import WeightedLatents

    rows = _rows_by_category(side, counting)
    return WeightedLatents(
        np.array([weight_of(member, weighting) for member in side], dtype=np.float64),
        {category: np.array(indices) for category, indices in rows.items()},
    )


def weight_of(member: Member, weighting: Weighting) -> float | None:
    """What a latent counts; None where the fact it needs is unknown."""
    if weighting == "none":
        return 1.0
    if member.density is None or weighting == "frequency":
        return member.density
    return None if member.mean_activation is None else member.density * member.mean_activation


def _rows_by_category(side: Sequence[Member], counting: str) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for index, member in enumerate(side):
        for category in member.counted_for(counting):
            rows[category].append(index)
    return rows


def _unweighable(latents: Sequence[Member], weighting: Weighting, denominator: str) -> str | None:
    unknown = sum(weight_of(member, weighting) is None for member in latents)
    if not unknown:
        return None
    fact = "density" if weighting == "frequency" else "density or mean activation"
    return f"{weighting}-weighted: {unknown} of {len(latents)} {denominator} latents have no {fact}"
