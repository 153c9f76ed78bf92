"""Runs every check of one comparison: other ways of counting, judge error, stricter isolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.orm import Session

from labeler.report.agreement import read_agreement
from labeler.report.comparisons import ComparisonFacts
from labeler.report.latent_sets import LatentSetView
from labeler.report.members import read_members
from labeler.report.model import Robustness
from labeler.report.read_beside import read_beside
from labeler.report.reviewed import read_judged
from labeler.report.rows import CategoryRow
from labeler.report.sensitivity import sensitivity_of
from labeler.report.statistics import CategoryPlace
from labeler.report.sweeping import sweep_members
from labeler.report.variants import compute_variants

if TYPE_CHECKING:
    from taxonomy.change import ExactTest


@dataclass(frozen=True)
class RobustnessInput:
    """What the checks start from: the leading rows, and how they were computed."""

    main: tuple[CategoryRow, ...]
    places: Sequence[CategoryPlace]
    sets: tuple[LatentSetView, LatentSetView]
    test: ExactTest
    alpha: float


def check_robustness(
    session: Session, facts: ComparisonFacts, given: RobustnessInput
) -> Robustness:
    """Run the checks of a comparison whose leading rows are computed."""
    from taxonomy.corrected_change import CategoryKey, correct_changes

    denominator = given.main[0].denominator
    members = read_members(session, facts)
    variants = compute_variants(members, given.places, test=given.test, alpha=given.alpha)
    others = tuple(row for row in variants.rows if row.way != given.main[0].way)
    judged = read_judged(session, facts, given.places, denominator)
    keys = [CategoryKey(place.category, place.level, place.parent) for place in given.places]
    return Robustness(
        others=others,
        missing=variants.missing,
        sensitivity=sensitivity_of(given.main, others),
        correction=correct_changes(keys, judged.target, judged.reference, alpha=given.alpha),
        sweep=sweep_members(members, given.sets, given.places, denominator, given.alpha),
        beside=read_beside(session, facts, denominator, given.test),
        agreement=read_agreement(session, facts.comparison.name),
    )
