"""Which categories are one and the same: likely pairs are judged, and groups are complete.

Complete linkage: a group holds only categories of which every two were judged the same. Chains,
where a is like b and b like c but a is not like c, can not form, as they would by union-find.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taxonomy.errors import InputError
from taxonomy.mapping import normalise_rows
from taxonomy.naming import CategoryName


@dataclass(frozen=True)
class PairTask:
    """One question: are these two categories the same?"""

    first: CategoryName
    second: CategoryName
    first_examples: tuple[str, ...]
    second_examples: tuple[str, ...]
    similarity: float
    """Cosine of what the two are made of."""


Merging = Callable[[Sequence[PairTask]], Sequence[bool]]
"""Answers each task in order: True where the two are one category."""

Pair = tuple[int, int]
"""Positions of two categories, the lower one first."""


def candidate_pairs(
    vectors: npt.ArrayLike, *, least_similarity: float, most_per_category: int = 5
) -> dict[Pair, float]:
    """Pairs of categories (k, e) worth a question, with their cosine.

    A category is paired with its nearest ones, at most `most_per_category`, none of them below
    `least_similarity`.
    """
    rows = normalise_rows(vectors)
    similarity = rows @ rows.T
    np.fill_diagonal(similarity, -np.inf)
    pairs: dict[Pair, float] = {}
    for number, row in enumerate(similarity):
        for other in np.argsort(-row, kind="stable")[:most_per_category]:
            if row[other] >= least_similarity:
                pair = (min(number, int(other)), max(number, int(other)))
                pairs[pair] = float(row[other])
    return pairs


def complete_groups(n: int, same: Mapping[Pair, float]) -> list[tuple[int, ...]]:
    """Groups of n categories by complete linkage over the pairs judged the same.

    The most similar pairs are merged first; groups come in order of their first category.
    """
    group_of = list(range(n))
    groups: dict[int, set[int]] = {number: {number} for number in range(n)}
    for first, second in sorted(same, key=lambda pair: (-same[pair], pair)):
        a, b = group_of[first], group_of[second]
        if a == b or not _all_same(groups[a], groups[b], same):
            continue
        groups[a] |= groups.pop(b)
        for number in groups[a]:
            group_of[number] = a
    return sorted(tuple(sorted(group)) for group in groups.values())


def consolidate(
    names: Sequence[CategoryName],
    examples: Sequence[tuple[str, ...]],
    vectors: npt.ArrayLike,
    merging: Merging,
    *,
    least_similarity: float,
) -> list[tuple[int, ...]]:
    """Groups of categories that are one; most are groups of one."""
    if len(names) < 2:
        return [(number,) for number in range(len(names))]
    candidates = candidate_pairs(vectors, least_similarity=least_similarity)
    pairs = sorted(candidates, key=lambda pair: (-candidates[pair], pair))
    tasks = [
        PairTask(names[a], names[b], examples[a], examples[b], candidates[(a, b)]) for a, b in pairs
    ]
    answers = list(merging(tasks)) if tasks else []
    if len(answers) != len(tasks):
        raise InputError(f"{len(answers)} answers came back for {len(tasks)} pairs")
    same = {pair: candidates[pair] for pair, is_same in zip(pairs, answers, strict=True) if is_same}
    return complete_groups(len(names), same)


def _all_same(first: set[int], second: set[int], same: Mapping[Pair, float]) -> bool:
    return all((min(a, b), max(a, b)) in same for a in first for b in second)
