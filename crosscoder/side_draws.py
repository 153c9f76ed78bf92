"""The two sides of a comparison, chosen again after the models were swapped document by document.

Latents of one concept fire in the same documents, so they shift together: they are no independent
draws. Where the models do not differ, swapping them in a document changes nothing systematic. So
the models are swapped in a random half of the documents and the sides are chosen again; counts on
such sides are what chance gives.

A swap exchanges the document's terms in the sums; dictionary and activations stay. A draw takes as
many latents per side as the rule did, from the rule's candidates and in its order: thresholds are
left out, because after a swap hardly any latent would pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from crosscoder.config import Overlap
from crosscoder.errors import InputError
from crosscoder.isolation import ComparisonSelection, in_order, take_sides
from crosscoder.progress import Progress, SilentProgress
from crosscoder.scaling import LatentScaling, PairScaling
from crosscoder.scaling_sums import BoolArray, FloatArray
from crosscoder.strength_shift import common_shift

SWEPT_TOP = 400
"""Least number of latents per drawn side, where its first n are the side of size n."""
_DRAWS_AT_ONCE = 32
IndexMatrix = NDArray[np.int32]
IndexArray = NDArray[np.int32]


@dataclass(frozen=True)
class SideDraws:
    """The sides that were chosen in R draws, each in the rule's order; -1 fills a short side."""

    target: IndexMatrix
    """(R, n) latent indices"""
    reference: IndexMatrix
    """(R, m) latent indices"""
    shifts: NDArray[np.float32]
    """(1 + G, F) strength shift of every latent, and without each block of documents; from the
    target's point of view. With a common base: shift of the target less that of the other."""
    has_prefixes: bool
    """Whether the first n latents of a side are the side of n latents per side."""
    target_order: IndexArray | None = None
    """(n,) latent indices of the side as it is, to the depth of the draws; None without
    prefixes."""
    reference_order: IndexArray | None = None
    """(m,)"""
    squares: NDArray[np.float32] | None = None
    """(F,) sum of the squared activations of each latent."""

    @property
    def n_draws(self) -> int:
        """R."""
        return len(self.target)


class _Columns(NamedTuple):
    """What a pair's statistics are made of: one array (n,) or (F,) each."""

    error_own: FloatArray
    error_other: FloatArray
    reconstruction_own: FloatArray
    reconstruction_other: FloatArray
    shift: FloatArray


def draw_sides(
    scaling: LatentScaling,
    chosen: ComparisonSelection,
    overlap: Overlap = "exclude",
    n_draws: int = 2000,
    seed: int = 0,
    progress: Progress | None = None,
) -> SideDraws:
    """Choose the sides of a comparison again in `n_draws` random swaps of its two models.

    Both sides belong to the dictionary of `scaling`. The swap exchanges what a document adds to
    the pair of the target side with what it adds to that of the reference side. InputError where
    no draw is asked for.
    """
    if n_draws < 1:
        raise InputError(f"n_draws: {n_draws}; give 2000 or more")
    trial = _Trial(scaling, chosen, overlap)
    rows: tuple[list[IndexMatrix], list[IndexMatrix]] = ([], [])
    random = np.random.default_rng(seed)
    with (progress or SilentProgress()).task("randomise", n_draws, "draws") as advance:
        for start in range(0, n_draws, _DRAWS_AT_ONCE):
            n = min(_DRAWS_AT_ONCE, n_draws - start)
            signs = random_signs(random, (scaling.documents.n_groups, n))
            for sides in trial.choose(signs):
                for side, row in zip(rows, sides, strict=True):
                    side.append(row)
            advance(n)
    drawn = SideDraws(
        np.stack(rows[0]),
        np.stack(rows[1]),
        trial.shifts(),
        trial.has_prefixes,
        squares=trial.squares.astype(np.float32),
    )
    if not trial.has_prefixes:
        return drawn
    target, reference = trial.orders()
    return replace(drawn, target_order=target, reference_order=reference)


def random_signs(random: np.random.Generator, shape: tuple[int, int]) -> FloatArray:
    """1 or -1 at random."""
    return random.choice((-1.0, 1.0), size=shape)


class _Trial:
    """Everything that the draws of one comparison share."""

    def __init__(
        self, scaling: LatentScaling, chosen: ComparisonSelection, overlap: Overlap
    ) -> None:
        sides = (chosen.target, chosen.reference)
        self._rule = chosen.target.rule
        self._exclude = overlap == "exclude"
        self._pairs = tuple(scaling.pair(side.target, side.reference) for side in sides)
        self._is_direct = (sides[0].target, sides[0].reference) == (
            sides[1].reference,
            sides[1].target,
        )
        self.has_prefixes = self._rule.sides_are_apart and self._is_direct
        self._sizes = [len(side.latent_indices) for side in sides]
        if self.has_prefixes:
            self._sizes = [max(size, SWEPT_TOP) for size in self._sizes]
        eligible = [self._rule.eligible(pair) for pair in self._pairs]
        self._eligible: BoolArray = (eligible[0] | eligible[1]) & (scaling.n_active > 0)
        self.squares = _per_latent(scaling, scaling.documents.square.astype(np.float64))
        self._n_groups = scaling.documents.n_groups
        columns = [_columns(scaling, side.target, side.reference) for side in sides]
        self._sum = _Columns(
            *(_per_latent(scaling, (a + b) / 2) for a, b in zip(*columns, strict=True))
        )
        self._difference = [_per_group(scaling, (a - b) / 2) for a, b in zip(*columns, strict=True)]

    def shifts(self) -> NDArray[np.float32]:
        """See SideDraws."""
        found = [np.vstack([pair.strength_shift, pair.shift_left_out]) for pair in self._pairs]
        return (found[0] if self._is_direct else found[0] - found[1]).astype(np.float32)

    def choose(self, signs: FloatArray) -> Iterator[tuple[IndexMatrix, IndexMatrix]]:
        """The two sides for each column of `signs` (G, n): 1 keeps a document, -1 swaps it."""
        moved = [matrix @ signs for matrix in self._difference]
        for draw in range(signs.shape[1]):
            orders = tuple(
                self._order(
                    pair,
                    _Columns(
                        *(
                            total + sign * difference[:, draw]
                            for total, difference in zip(self._sum, moved, strict=True)
                        )
                    ),
                )
                for pair, sign in zip(self._pairs, (1.0, -1.0), strict=True)
            )
            yield self._take((orders[0], orders[1]))

    def orders(self) -> tuple[IndexArray, IndexArray]:
        """Both sides where no document is swapped."""
        return next(self.choose(np.ones((self._n_groups, 1))))

    def _take(
        self, orders: tuple[NDArray[np.int64], NDArray[np.int64]]
    ) -> tuple[IndexMatrix, IndexMatrix]:
        if not self.has_prefixes:
            n_latents = len(self._eligible)
            orders, _ = take_sides(orders, max(self._sizes), self._exclude, n_latents)
        return _padded(orders[0], self._sizes[0]), _padded(orders[1], self._sizes[1])

    def _order(self, pair: PairScaling, columns: _Columns) -> NDArray[np.int64]:
        """Candidates of one side in one draw, in the rule's order."""
        with np.errstate(divide="ignore", invalid="ignore"):
            nu_error = columns.error_other / columns.error_own
            nu_reconstruction = columns.reconstruction_other / columns.reconstruction_own
            shift = columns.shift / self.squares
            drawn = replace(
                pair,
                nu_error=nu_error,
                nu_error_high=nu_error,
                nu_reconstruction=nu_reconstruction,
                nu_reconstruction_high=nu_reconstruction,
                strength_shift=shift,
                shift_score=columns.shift / np.sqrt(self.squares),
                # The standard error is that of the documents as they are.
                shift_t=shift * (pair.shift_t / pair.strength_shift),
            )
        eligible = self._eligible & self._is_defined(columns)
        return in_order(self._rule.score(drawn, eligible), self._rule.candidates(drawn, eligible))

    def _is_defined(self, columns: _Columns) -> BoolArray:
        if "nu_error" not in self._rule.measures:
            return np.isfinite(columns.shift)
        return (columns.error_own > 0) & (columns.reconstruction_own > 0)


def _columns(scaling: LatentScaling, target: str, reference: str) -> _Columns:
    """What each row of the per-document sums adds to the statistics of a pair."""
    rows = scaling.documents
    t, r = (scaling.model_names.index(name) for name in (target, reference))
    gram = scaling.gram[rows.latent]
    square = rows.square.astype(np.float64)
    residual, reconstruction = rows.residual, rows.reconstruction
    return _Columns(
        error_own=residual[:, t, t] + square * gram[:, t, t],
        error_other=residual[:, t, r] + square * gram[:, t, r],
        reconstruction_own=reconstruction[:, t, t].astype(np.float64),
        reconstruction_other=reconstruction[:, t, r].astype(np.float64),
        shift=common_shift(residual.astype(np.float64) + reconstruction, gram, t, r),
    )


def _per_latent(scaling: LatentScaling, values: FloatArray) -> FloatArray:
    """Sum over the groups: (F,)."""
    total = np.bincount(scaling.documents.latent, values, scaling.n_latents)
    return total.astype(np.float64)


def _per_group(scaling: LatentScaling, values: FloatArray) -> sparse.csr_array:
    """(F, G) matrix of the values."""
    rows = scaling.documents
    shape = (scaling.n_latents, rows.n_groups)
    return sparse.csr_array((values, (rows.latent, rows.group)), shape=shape)


def _padded(indices: NDArray[np.int64], size: int) -> IndexMatrix:
    row = np.full(size, -1, dtype=np.int32)
    row[: min(size, len(indices))] = indices[:size]
    return row
