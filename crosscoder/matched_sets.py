"""Random sets of latents that are as many and move the activations as much as a given set."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from crosscoder.scaling_sums import BoolArray, FloatArray

TOLERANCE = 0.1
"""Largest difference of the magnitudes, as a share of the given set's."""
MIN_CONTROLS = 19
"""Controls below which none is given: p could not fall below 0.05."""
_WINDOWS = (256, 64, 16, 4)
"""Half-widths, in ranks of magnitude, of the latents among which a member's partner is drawn."""
_TRIES = 8
"""Draws per control and half-width."""
_HOPELESS_AFTER = 100
"""Draws without any match after which a half-width is given up."""
_SPARE = 2
"""How many times MIN_CONTROLS as many different nearest sets there must be."""
_REDRAWS = 16
"""Times that members whose partner is taken draw another."""
_LARGEST_FACTOR, _BISECTIONS, _DRAWS_A_STEP = 16.0, 8, 8
"""Bisection of the common factor between members and partners."""
IntArray = NDArray[np.int64]


def matched_sets(
    members: IntArray,
    magnitude: FloatArray,
    pool: BoolArray,
    n_sets: int,
    generator: np.random.Generator,
) -> list[IntArray]:
    """Different random sets of as many latents of the pool, none of them in the given set.

    `magnitude` (F,) is sum_i f_ij^2 ||d_j^t - d_j^r||^2; a control's total lies within TOLERANCE of
    the given set's. Each member has a partner of like magnitude, or of one larger or smaller by a
    common factor where that alone matches the totals. Where fewer than MIN_CONTROLS are found, as
    for the latents of the largest magnitudes, the nearest sets come back instead: random ones among
    the largest latents that are left, or the smallest. None where the pool has too few latents.
    """
    candidates = pool & (magnitude > 0)
    candidates[members] = False
    ranked = np.flatnonzero(candidates)
    ranked = ranked[np.argsort(magnitude[ranked], kind="stable")]
    wanted = float(magnitude[members].sum())
    n = len(members)
    if len(ranked) < n or n == 0 or wanted <= 0:
        return []
    least, most = magnitude[ranked[:n]].sum(), magnitude[ranked[-n:]].sum()
    found: list[IntArray] = []
    if least <= (1 + TOLERANCE) * wanted and most >= (1 - TOLERANCE) * wanted:
        found = _alike(members, magnitude, ranked, n_sets, generator)
    if len(found) >= min(n_sets, MIN_CONTROLS):
        return found
    largest = abs(most - wanted) <= abs(least - wanted)
    return _among(ranked[::-1] if largest else ranked, n, n_sets, generator)


def are_alike(totals: FloatArray, wanted: float) -> bool:
    """Whether the magnitudes of all controls lie within TOLERANCE of a set's."""
    return bool((np.abs(totals - wanted) <= TOLERANCE * wanted).all())


def _among(
    ordered: IntArray, n: int, n_sets: int, generator: np.random.Generator
) -> list[IntArray]:
    """Different random sets of n of the first latents: of a quarter more than n, or of so many
    more that there are enough different sets."""
    window = n + n // 4
    while window < len(ordered) and math.comb(window, n) < _SPARE * MIN_CONTROLS:
        window += 1
    first = ordered[:window]
    found: dict[bytes, IntArray] = {}
    for _ in range(_TRIES * n_sets):
        if len(found) == n_sets:
            break
        chosen = np.sort(generator.choice(first, n, replace=False))
        found.setdefault(chosen.tobytes(), chosen)
    return list(found.values())


def _alike(
    members: IntArray,
    magnitude: FloatArray,
    ranked: IntArray,
    n_sets: int,
    generator: np.random.Generator,
) -> list[IntArray]:
    """Sets within TOLERANCE, from latents ranked by magnitude; as many as are found."""
    wanted = float(magnitude[members].sum())
    found: dict[bytes, IntArray] = {}
    for window in _WINDOWS:
        partners = _Partners(magnitude[ranked], magnitude[members], window, generator)
        partners.match_total(wanted)
        for tried in range(n_sets * _TRIES):
            if len(found) == n_sets:
                return list(found.values())
            if tried == _HOPELESS_AFTER and not found:
                break
            drawn = partners.draw()
            if drawn is None or abs(partners.total(drawn) - wanted) > TOLERANCE * wanted:
                continue
            chosen = np.sort(ranked[drawn])
            found.setdefault(chosen.tobytes(), chosen)
    return list(found.values())


class _Partners:
    """Draws a partner for each member from latents ranked by magnitude."""

    def __init__(
        self,
        ranked: FloatArray,
        members: FloatArray,
        window: int,
        generator: np.random.Generator,
    ) -> None:
        self._ranked = ranked
        self._members = members
        self._window = window
        self._generator = generator
        self._factor = 1.0

    def match_total(self, wanted: float) -> None:
        """Bisect the factor on the members' magnitudes so that the totals of draws are right."""
        low, high = 1 / _LARGEST_FACTOR, _LARGEST_FACTOR
        for _ in range(_BISECTIONS):
            drawn = [self.draw() for _ in range(_DRAWS_A_STEP)]
            totals = [self.total(each) for each in drawn if each is not None]
            # Where partners run out, they are too many at the top.
            if not totals or np.mean(totals) > wanted:
                high = self._factor
            else:
                low = self._factor
            self._factor = float(np.sqrt(low * high))

    def total(self, drawn: IntArray) -> float:
        """Magnitude of some ranks together."""
        return float(self._ranked[drawn].sum())

    def draw(self) -> IntArray | None:
        """A different rank near each member's; None where too few are near."""
        places = np.searchsorted(self._ranked, self._factor * self._members)
        high = np.minimum(places + self._window, len(self._ranked))
        low = np.clip(places - self._window, 0, high - 1)
        drawn = self._generator.integers(low, high)
        for _ in range(_REDRAWS):
            _, first = np.unique(drawn, return_index=True)
            if len(first) == len(drawn):
                return drawn
            again = np.ones(len(drawn), dtype=bool)
            again[first] = False
            drawn[again] = self._generator.integers(low[again], high[again])
        return None
