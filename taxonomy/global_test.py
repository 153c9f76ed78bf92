"""One test before all others: do the two sides differ in their categories at all?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taxonomy.counts import CategoryCounts
from taxonomy.errors import InputError

_CHUNK = 10_000
"""Permutations drawn at a time, which bounds the memory."""


@dataclass(frozen=True)
class GlobalTest:
    """Outcome of the permutation chi-square test; `p_value` is 1 where nothing can differ."""

    statistic: float
    degrees_of_freedom: int
    p_value: float
    n_permutations: int


def global_test(
    target: Sequence[int], reference: Sequence[int], *, seed: int, n_permutations: int = 9_999
) -> GlobalTest:
    """Test that both sides draw their latents from the same categories.

    `target` and `reference` are counts over one partition of the latents (`partition_counts`).
    Latents are permuted between the sides, which is a draw from the multivariate hypergeometric
    distribution; the statistic is Pearson's chi-square, and p = (1 + exceedances) /
    (1 + permutations) (Phipson & Smyth 2010).
    """
    observed = np.asarray(target, dtype=np.int64)
    other = np.asarray(reference, dtype=np.int64)
    if observed.shape != other.shape or observed.ndim != 1:
        raise InputError("the two sides of a global test must count the same categories")
    if (observed < 0).any() or (other < 0).any():
        raise InputError("a global test needs counts of 0 or more; was a latent counted twice?")
    pooled = observed + other
    seen = pooled > 0
    observed, pooled = observed[seen], pooled[seen]
    n_target, n_all = int(observed.sum()), int(pooled.sum())
    if len(pooled) < 2 or n_target in (0, n_all):
        return GlobalTest(0.0, 0, 1.0, 0)
    statistic = float(_chi_square(observed[None, :], pooled)[0])
    generator = np.random.default_rng(seed)
    exceedances = 0
    for start in range(0, n_permutations, _CHUNK):
        size = min(_CHUNK, n_permutations - start)
        drawn = generator.multivariate_hypergeometric(
            pooled, n_target, size=size, method="marginals"
        )
        exceedances += int((_chi_square(drawn, pooled) >= statistic * (1 - 1e-12)).sum())
    return GlobalTest(
        statistic, len(pooled) - 1, (1 + exceedances) / (1 + n_permutations), n_permutations
    )


def partition_counts(
    counts: Iterable[CategoryCounts],
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return target and reference counts over cells that each latent falls into one of.

    A cell is what a category has beyond its children: all of a leaf, at whatever level it stands,
    and what lies in a group itself and in none of its categories. The latents without a category
    come last. Primary counts of a whole tree only: a cell is negative, and `global_test` refuses
    it, where a latent is counted in several categories.
    """
    rows = list(counts)
    below: dict[str, list[int]] = {}
    for row in rows:
        if row.parent is not None:
            sums = below.setdefault(row.parent, [0, 0])
            sums[0] += row.target_count
            sums[1] += row.reference_count
    own = [
        (row.target_count - inside[0], row.reference_count - inside[1])
        for row in rows
        for inside in (below.get(row.category, (0, 0)),)
    ]
    if rows:
        taken = [sum(cell[side] for cell in own) for side in (0, 1)]
        own.append((rows[0].target_total - taken[0], rows[0].reference_total - taken[1]))
    return tuple(cell[0] for cell in own), tuple(cell[1] for cell in own)


def _chi_square(
    target: npt.NDArray[np.int64], pooled: npt.NDArray[np.int64]
) -> npt.NDArray[np.float64]:
    """Pearson's statistic of 2 x C tables with common margins.

    `target` (R, C) are the first rows of the tables, `pooled` (C,) their column sums, all > 0.
    """
    n_target, n_all = target[0].sum(), pooled.sum()
    expected = pooled * (n_target / n_all)
    deviation = (target - expected) ** 2 / expected
    result: npt.NDArray[np.float64] = deviation.sum(axis=1) * (n_all / (n_all - n_target))
    return result
