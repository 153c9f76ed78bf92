"""Agreement of several judges, or of several answers of one, on the categories of latents.

Krippendorff's alpha for nominal data (K. Krippendorff, Computing Krippendorff's Alpha-Reliability,
2011): alpha = 1 - D_o / D_e, where the observed disagreement compares the answers to one latent and
the expected one all answers with each other. It takes missing answers and any number of raters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

N_DRAWS = 2000
MIN_UNITS = 5
"""Latents with two answers or more below which the interval would say nothing."""


@dataclass(frozen=True)
class KrippendorffAlpha:
    """Alpha with its interval; `alpha` is None exactly where `reason` says why."""

    alpha: float | None
    ci_low: float | None
    ci_high: float | None
    n_units: int
    """Latents with at least two answers: the others say nothing of agreement."""
    n_answers: int
    """Answers to these latents."""
    n_raters: int
    n_categories: int
    reason: str | None = None


def nominal_alpha(
    units: Sequence[Sequence[str | None]], seed: int = 0, n_draws: int = N_DRAWS
) -> KrippendorffAlpha:
    """Agreement on units (latents), each with one value per rater, None where one is missing.

    The interval is the percentile bootstrap over units (95 %). Undefined with fewer than two
    raters, with no unit that two of them answered, and where all answers are the same: then there
    is no disagreement to be expected, so chance is not told from skill.
    """
    n_raters = max((len(unit) for unit in units), default=0)
    counts, categories = _counts(units)
    n_units, n_answers = len(counts), int(counts.sum())

    def undefined(reason: str) -> KrippendorffAlpha:
        return KrippendorffAlpha(
            None, None, None, n_units, n_answers, n_raters, len(categories), reason
        )

    if n_raters < 2:
        return undefined("fewer than two judges or samples")
    if n_units == 0:
        return undefined("no latent has two answers")
    if len(categories) < 2:
        return undefined("all answers are the same category")
    alpha = float(_alphas(counts[None])[0])
    low, high = _interval(counts, seed, n_draws)
    return KrippendorffAlpha(alpha, low, high, n_units, n_answers, n_raters, len(categories))


def _counts(units: Iterable[Sequence[str | None]]) -> tuple[NDArray[np.float64], list[str]]:
    """(u, c) how many raters gave each value to each unit with at least two answers."""
    tallies = [Counter(value for value in unit if value is not None) for unit in units]
    pairable = [tally for tally in tallies if sum(tally.values()) >= 2]
    categories = sorted({value for tally in pairable for value in tally})
    counts = np.array(
        [[tally[value] for value in categories] for tally in pairable], dtype=np.float64
    ).reshape(len(pairable), len(categories))
    return counts, categories


def _alphas(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Alpha (b,) of stacks of units (b, u, c); NaN where no disagreement is expected."""
    answers = counts.sum(axis=2)
    agreeing = (counts * (counts - 1)).sum(axis=2) / (answers - 1)
    total = answers.sum(axis=1)
    observed = 1 - agreeing.sum(axis=1) / total
    by_category = counts.sum(axis=1)
    same = (by_category * (by_category - 1)).sum(axis=1)
    expected = 1 - same / (total * (total - 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        result: NDArray[np.float64] = np.where(expected > 0, 1 - observed / expected, np.nan)
    return result


def _interval(
    counts: NDArray[np.float64], seed: int, n_draws: int
) -> tuple[float | None, float | None]:
    if len(counts) < MIN_UNITS or n_draws < 1:
        return None, None
    generator = np.random.default_rng(seed)
    alphas = np.concatenate(
        [
            _alphas(counts[generator.integers(len(counts), size=(len(part), len(counts)))])
            for part in np.array_split(np.arange(n_draws), max(1, n_draws // 200))
        ]
    )
    defined = alphas[~np.isnan(alphas)]
    # A draw of units that all have one answer says nothing; if that is common, so is the interval.
    if len(defined) < 0.9 * n_draws:
        return None, None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)


def as_units(answers: Mapping[int, Mapping[str, str]]) -> list[list[str | None]]:
    """Units in the order of their keys, from the answer of each rater by its name."""
    raters = sorted({rater for given in answers.values() for rater in given})
    return [[answers[key].get(rater) for rater in raters] for key in sorted(answers)]
