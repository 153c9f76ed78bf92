"""How many documents would make a change distinguishable, from the draws of a study itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from taxonomy.counts import ALPHA, CategoryChange, CategoryCounts
from taxonomy.randomisation import DrawnCounts, FloatArray, largest_difference

POWER = 0.8
"""Share of texts of the advised size in which the change is to be called."""
WITHIN_CHANCE = 0.32
"""p above which no amount of text is advised: the change is within one standard deviation of 0."""
_NORMAL = NormalDist()


@dataclass(frozen=True)
class TextAdvice:
    """What a text of so many documents can show of one category."""

    n_documents: int
    """Documents that the draws swapped."""
    detectable_points: float | None
    """Smallest difference of shares, in percentage points, that would be called in this text; None
    where no difference would be."""
    documents_needed: int | None
    """Documents in which a change as large as the one seen is called with 80% power; None where no
    amount is advised."""


def text_advice(
    changes: Sequence[CategoryChange],
    drawn: DrawnCounts,
    n_documents: int,
    alpha: float = ALPHA,
) -> list[TextAdvice]:
    """Advice on every row of one table, whose sides were drawn.

    A side is the first latents of a ranking. Where nothing differs that is a ranking of noise, and
    the spread s of the difference of shares does not depend on the number of documents n. A latent
    is on a side where its sum over documents passes a limit; a true shift grows against the noise
    of that sum like sqrt(n). So the probit of the difference d, as a part of the largest difference
    D that the category's latents allow, grows like sqrt(n):

        u(d) = Phi^-1((1 + d / D) / 2)          s_u = s * u'(0) = s * sqrt(pi / 2) / D

    A difference is called beyond the critical one c, so that the one seen in n documents needs

        n * ((u(c) + z s_u) / u(d))^2,          z = Phi^-1(power) = 0.84

    While d is small against D this is n * ((c + z s) / d)^2: the same as for a true difference that
    stays, and a spread that falls like 1 / sqrt(n). c is the smallest difference whose p is within
    alpha k / m, the limit of Benjamini and Hochberg for a level of m rows of which k - 1 others are
    called. Assumed are that further documents are like these, the true change is the one seen,
    labels stay, and the probit is normal with the spread of the draws.

    No amount is advised where a third of the draws differ as much, since the change may well be
    nothing, or where the category has too few latents to ever be so far apart.
    """
    spread = np.sqrt((drawn.differences**2).mean(axis=0))
    sizes = np.abs(drawn.differences)
    return [
        _advice(
            row,
            _critical(row, sizes[:, i], _limit(row, changes, alpha)),
            float(spread[i]),
            float(drawn.n_members[i]),
            n_documents,
        )
        for i, row in enumerate(changes)
    ]


def _limit(row: CategoryChange, changes: Sequence[CategoryChange], alpha: float) -> float:
    """Largest p with which the row would be called beside the others of its level."""
    tested = [each for each in changes if each.level == row.level and not each.is_empty]
    others = sum(each.q_value < alpha for each in tested if each is not row)
    return alpha * (others + 1) / max(len(tested), 1)


def _critical(row: CategoryCounts, sizes: FloatArray, limit: float) -> float | None:
    """Smallest difference of shares whose p lies within the limit; None where none does."""
    rank = math.floor(limit * (1 + len(sizes)) + 1e-9)
    total = max(row.target_total, row.reference_total)
    if rank < 1 or not total:
        return None
    # One latent more than the rank-th largest of the draws.
    return float(np.sort(sizes)[-rank]) + 1 / total


def _advice(
    row: CategoryChange, critical: float | None, spread: float, n_members: float, n_documents: int
) -> TextAdvice:
    if row.is_empty or row.difference_points is None or critical is None:
        return TextAdvice(n_documents, None, None)
    largest = largest_difference(row.target, row.reference, n_members)
    # A probit stays finite half a latent below the largest difference.
    reachable = largest - 0.5 / max(row.target_total, row.reference_total)
    if critical > largest or reachable <= 0:
        return TextAdvice(n_documents, None, None)
    seen = abs(row.difference_points) / 100
    needed = None
    if row.p_value <= WITHIN_CHANCE and seen and spread:
        wanted = _probit(min(critical, reachable) / largest)
        wanted += _NORMAL.inv_cdf(POWER) * spread * math.sqrt(math.pi / 2) / largest
        root = wanted / _probit(min(seen, reachable) / largest)
        needed = math.ceil(n_documents * root**2)
    return TextAdvice(n_documents, 100 * critical, needed)


def _probit(part: float) -> float:
    return _NORMAL.inv_cdf((1 + part) / 2)


@dataclass(frozen=True)
class MeasuredPower:
    """How often a planted change was called, by documents."""

    change: str
    called: tuple[tuple[int, float], ...]
    """Documents, ascending, and the share of texts of that size in which it was called."""
    source: str

    def at(self, n_documents: int) -> float:
        """The share at another size: between two sizes, and below the first, its probit is linear
        in the root of the documents; above the last it is that of the last."""
        sizes = [0.0, *(float(documents) for documents, _ in self.called)]
        probits = [_NORMAL.inv_cdf(_CHANCE), *(_finite_probit(share) for _, share in self.called)]
        at = np.interp(math.sqrt(n_documents), np.sqrt(sizes), probits)
        return _NORMAL.cdf(float(at))


_CHANCE = 0.01
"""Share of texts in which nothing would be called the planted change."""


def _finite_probit(share: float) -> float:
    return _NORMAL.inv_cdf(min(max(share, 0.001), 0.999))


PLANTED_CHANGE = MeasuredPower(
    change="a category of fifteen latents that one model uses 4% more strongly",
    called=((611, 0.32), (1200, 0.62), (2000, 1.0), (6000, 1.0)),
    source="benchmarks/shift.py, in docs/benchmarks.md",
)
"""The planted category change of the shift benchmark."""
