"""Stability: how much of a labelling remains when it is computed in other ways.

A labelling gives every latent its primary category, `none`, or nothing at all (None: the latent is
outside this labelling). The active labelling is compared with reruns: partitions by adjusted
mutual information, categories by their best match, changes by their sign.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score

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
