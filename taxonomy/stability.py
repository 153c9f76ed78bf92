"""Stability: how much of a labelling remains when it is computed in other ways.

A labelling gives every latent its primary category, `none`, or nothing at all (None: the latent is
outside this labelling). The active labelling is compared with reruns: partitions by adjusted
mutual information, categories by their best match, changes by their sign.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student_t
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

from taxonomy.counts import ALPHA, Interval, Side
from taxonomy.errors import InputError
from taxonomy.mapping import Vectors

NONE = "none"
"""The outcome of a latent that was judged to belong nowhere."""
UNSTABLE_JACCARD = 0.5
"""A category whose best match shares less than this with it is called unstable."""

Labelling = Sequence[str | None]
"""Primary category of each latent, `none`, or None for a latent that is outside."""


@dataclass(frozen=True)
class Rerun:
    """The labels of one rerun."""

    kind: str
    """What was varied: subsample, clustering, repeat or confidence."""
    setting: str
    """How, in words: the seed, the distance, the threshold."""
    labels: tuple[str | None, ...]
    n_labels: tuple[int, ...]
    """Categories of each latent, secondary ones included."""
    names_are_categories: bool = True
    """False where labels are cluster numbers, which have to be matched with categories."""


@dataclass(frozen=True)
class RerunSummary:
    """A rerun compared with the active labelling, over the latents that both label."""

    kind: str
    setting: str
    n: int
    ami: float | None
    ari: float | None
    coverage: float | None
    """Share of the labelled latents that have a category."""
    overlap: float | None
    """Mean number of categories of a latent that has one."""


@dataclass(frozen=True)
class CategoryStability:
    """What reruns of one kind make of one category and its change."""

    category: str
    kind: str
    n_reruns: int
    jaccard_mean: float | None
    jaccard_least: float | None
    reported_sign: int | None
    """+1 up, -1 down, 0 equal shares; None where neither side has a latent."""
    same_sign: int
    """Reruns in which the change has the reported sign."""
    n_signed: int
    """Reruns in which the change is defined."""

    @property
    def sign_stability(self) -> float | None:
        """Share of the reruns with a defined change that keep the reported sign."""
        if self.reported_sign is None or self.n_signed == 0:
            return None
        return self.same_sign / self.n_signed

    @property
    def is_unstable(self) -> bool:
        """Whether the category or its sign does not hold."""
        weak = self.jaccard_mean is not None and self.jaccard_mean < UNSTABLE_JACCARD
        return weak or (self.sign_stability is not None and self.sign_stability < 0.9)


def summarise_rerun(reference: Labelling, rerun: Rerun) -> RerunSummary:
    """Agreement, coverage and overlap of a rerun."""
    shared = [row for row, label in enumerate(rerun.labels) if label is not None]
    both = [row for row in shared if reference[row] is not None]
    assigned = [row for row in shared if rerun.labels[row] != NONE]
    first = [str(reference[row]) for row in both]
    second = [str(rerun.labels[row]) for row in both]
    return RerunSummary(
        kind=rerun.kind,
        setting=rerun.setting,
        n=len(both),
        ami=float(adjusted_mutual_info_score(first, second)) if both else None,
        ari=float(adjusted_rand_score(first, second)) if both else None,
        coverage=len(assigned) / len(shared) if shared else None,
        overlap=float(np.mean([rerun.n_labels[row] for row in assigned])) if assigned else None,
    )


def jaccards(reference: Labelling, rerun: Rerun) -> dict[str, float]:
    """Jaccard index of each category of the reference with its counterpart in the rerun.

    Only latents that both label count. The counterpart is the category of the same name, or for
    clusters the one that an assignment of largest total Jaccard gives (Hungarian method).
    """
    names, other, table = _overlaps(reference, rerun)
    if rerun.names_are_categories:
        places = {label: column for column, label in enumerate(other)}
        return {
            name: float(table[row, places[name]]) if name in places else 0.0
            for row, name in enumerate(names)
        }
    matches = _match(table)
    return {
        name: float(table[row, matches[row]]) if row in matches else 0.0
        for row, name in enumerate(names)
    }


def renamed_clusters(reference: Labelling, rerun: Rerun) -> Labelling:
    """The rerun's labels with matched clusters under the names of their categories."""
    if rerun.names_are_categories:
        return rerun.labels
    names, other, table = _overlaps(reference, rerun)
    by_label = {other[column]: names[row] for row, column in _match(table).items()}
    return tuple(
        label if label in (None, NONE) else by_label.get(label, f"cluster {label}")
        for label in rerun.labels
    )


def change_signs(
    labels: Labelling, is_target: Sequence[bool], parents: Mapping[str, str | None]
) -> dict[str, int | None]:
    """Sign of the change of every category of `parents`; None where neither side has one.

    A share is that of the labelled latents of a side, and a parent counts those of its children.
    """
    counts: dict[str, list[int]] = {slug: [0, 0] for slug in parents}
    totals = [0, 0]
    for label, in_target in zip(labels, is_target, strict=True):
        if label is None:
            continue
        side = 0 if in_target else 1
        totals[side] += 1
        for slug in _with_parent(label, parents):
            counts[slug][side] += 1
    return {slug: _sign(found, totals) for slug, found in counts.items()}


def category_stability(
    reference: Labelling,
    reruns: Sequence[Rerun],
    is_target: Sequence[bool],
    parents: Mapping[str, str | None],
) -> tuple[CategoryStability, ...]:
    """Each category of `parents` under each kind of rerun, in the order of both."""
    if any(len(rerun.labels) != len(reference) for rerun in reruns):
        raise InputError("a rerun labels another number of latents than there are")
    reported = change_signs(reference, is_target, parents)
    found: list[CategoryStability] = []
    for kind in dict.fromkeys(rerun.kind for rerun in reruns):
        own = [rerun for rerun in reruns if rerun.kind == kind]
        shares = [jaccards(reference, rerun) for rerun in own]
        signs = [
            change_signs(renamed_clusters(reference, rerun), is_target, parents) for rerun in own
        ]
        for slug in parents:
            values = [each[slug] for each in shares if slug in each]
            defined = [each[slug] for each in signs if each[slug] is not None]
            found.append(
                CategoryStability(
                    category=slug,
                    kind=kind,
                    n_reruns=len(own),
                    jaccard_mean=float(np.mean(values)) if values else None,
                    jaccard_least=min(values) if values else None,
                    reported_sign=reported[slug],
                    same_sign=sum(sign == reported[slug] for sign in defined),
                    n_signed=len(defined),
                )
            )
    return tuple(found)


def _overlaps(reference: Labelling, rerun: Rerun) -> tuple[list[str], list[str], Vectors]:
    """Categories of the reference, labels of the rerun, and their Jaccard indices (a, b)."""
    pairs = [
        (first, second)
        for first, second in zip(reference, rerun.labels, strict=True)
        if first is not None and second is not None
    ]
    names = list(dict.fromkeys(first for first, _ in pairs if first != NONE))
    other = list(dict.fromkeys(second for _, second in pairs if second != NONE))
    rows = {name: row for row, name in enumerate(names)}
    columns = {label: column for column, label in enumerate(other)}
    both = np.zeros((len(names), len(other)))
    size_a, size_b = np.zeros(len(names)), np.zeros(len(other))
    for first, second in pairs:
        if first in rows:
            size_a[rows[first]] += 1
        if second in columns:
            size_b[columns[second]] += 1
        if first in rows and second in columns:
            both[rows[first], columns[second]] += 1
    union = size_a[:, None] + size_b[None, :] - both
    table: Vectors = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    return names, other, table


def _match(table: Vectors) -> dict[int, int]:
    """Row -> column of the assignment with the largest total; pairs that share nothing are none."""
    rows, columns = linear_sum_assignment(-table)
    return {
        int(row): int(column)
        for row, column in zip(rows, columns, strict=True)
        if table[row, column] > 0
    }


def _with_parent(label: str, parents: Mapping[str, str | None]) -> list[str]:
    if label not in parents:
        return []
    above = parents[label]
    return [label] if above is None else [label, above]


def _sign(counts: Sequence[int], totals: Sequence[int]) -> int | None:
    if counts == [0, 0] or 0 in totals:
        return None
    return int(np.sign(counts[0] * totals[1] - counts[1] * totals[0]))


ZERO_CORRECTION = 0.5
"""Added to every count and total, so that a count of 0 has a logarithm (Walter 1975)."""
_LEAST_PART = 1e-6
"""Part of the variance that lies between seeds below which Student's t is the normal."""


@dataclass(frozen=True)
class LogRatio:
    """Logarithm of target share / reference share of one crosscoder, and its variance."""

    value: float
    variance: float
    is_zero: bool = False
    """A count was 0: the value leans on `ZERO_CORRECTION`."""


@dataclass(frozen=True)
class CombinedChange:
    """The change over seeds, in percent; the variances are those of the log ratio.

    `between` is None for a single seed, whose interval knows nothing of other seeds.
    """

    n_seeds: int
    percent_change: float
    ci_low: float
    ci_high: float
    p_value: float
    within: float
    between: float | None
    degrees_of_freedom: float
    n_same_sign: int
    """Seeds whose own change has the sign of the combined one."""
    n_zero: int
    """Seeds in which a count was 0."""


def log_ratio_of(target: Side, reference: Side) -> LogRatio:
    """Adjusted log ratio of two shares and its variance (Walter 1975; Pettigrew et al. 1986).

    InputError where a side has no latents.
    """
    if not target.total or not reference.total:
        raise InputError("a seed without latents on a side has no ratio of shares")
    half = ZERO_CORRECTION
    value = math.log((target.count + half) / (target.total + half)) - math.log(
        (reference.count + half) / (reference.total + half)
    )
    variance = sum(
        1 / (side.count + half) - 1 / (side.total + half) for side in (target, reference)
    )
    return LogRatio(value, variance, is_zero=not target.count or not reference.count)


def combine_seeds(seeds: Sequence[LogRatio], alpha: float = ALPHA) -> CombinedChange:
    """Combine m seeds: the mean log ratio, with variance W + B / m.

    W is the mean variance within a seed, B the variance between seeds, found from the spread of
    the values. Random effects with errors within seeds that are taken as perfectly correlated
    (Borenstein et al. 2009, chapter 24, r = 1): other seeds are other dictionaries of the same
    two models, no new models, so that the interval never gets narrower than that of one seed.
    Student's t by Satterthwaite's degrees of freedom. InputError without seeds.
    """
    if not seeds:
        raise InputError("no seeds to combine")
    values = np.array([seed.value for seed in seeds])
    within = float(np.mean([seed.variance for seed in seeds]))
    mean, n_seeds = float(values.mean()), len(seeds)
    between = float(values.var(ddof=1)) if n_seeds > 1 else None
    added = (between or 0.0) / n_seeds
    error = math.sqrt(within + added)
    part = added / (within + added) if added > 0 else 0.0
    freedom = (n_seeds - 1) / part**2 if part > _LEAST_PART else math.inf
    quantile = float(student_t.isf(alpha / 2, freedom))
    interval = Interval(mean - quantile * error, mean + quantile * error)
    return CombinedChange(
        n_seeds=n_seeds,
        percent_change=100 * math.expm1(mean),
        ci_low=100 * math.expm1(interval.low),
        ci_high=100 * math.expm1(interval.high),
        p_value=float(2 * student_t.sf(abs(mean) / error, freedom)) if error > 0 else 1.0,
        within=within,
        between=between,
        degrees_of_freedom=freedom,
        n_same_sign=int((np.sign(values) == np.sign(mean)).sum()),
        n_zero=sum(seed.is_zero for seed in seeds),
    )
