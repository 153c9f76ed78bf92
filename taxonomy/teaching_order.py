"""Which latents to review next, so that a classifier learns most from the answers.

Greedy: the next latent has the largest product of doubt and distance to all that is reviewed or
chosen already. Doubt alone asks about one confusion again and again; distance alone asks about
outliers. The form is that of farthest-first traversal (Gonzalez 1985), weighted by doubt.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

LEAST_DOUBT = 0.02
"""Added to every doubt: also a sure answer may be wrong where nothing near it is reviewed."""


def doubt_of(probabilities: npt.ArrayLike) -> Floats:
    """Doubt (n,) from probabilities (n, C): 1 minus the lead of the best over the second best."""
    best = np.sort(np.asarray(probabilities, dtype=np.float64), axis=1)[:, ::-1]
    result: Floats = 1 - (best[:, 0] - best[:, 1])
    return result


def teaching_order(
    doubts: npt.ArrayLike, vectors: npt.ArrayLike, known: npt.ArrayLike, size: int
) -> list[int]:
    """Rows of up to `size` latents in the order in which to review them.

    `doubts` (n,) lie in [0, 1]; `vectors` (n, e) and `known` (m, e), those of reviewed latents,
    have any length but 0. Ties go to the first row.
    """
    weights = np.asarray(doubts, dtype=np.float64) + LEAST_DOUBT
    rows = _unit(vectors)
    distances = np.ones(len(rows))
    seen = np.asarray(known, dtype=np.float64)
    if len(seen) and len(rows):
        distances = 1 - (rows @ _unit(seen).T).max(axis=1)
    left = np.ones(len(rows), dtype=bool)
    order: list[int] = []
    while len(order) < size and left.any():
        gains = weights * np.maximum(distances, 0.0)
        gains[~left] = -1.0
        chosen = int(gains.argmax())
        order.append(chosen)
        left[chosen] = False
        distances = np.minimum(distances, 1 - rows @ rows[chosen])
    return order


def _unit(vectors: npt.ArrayLike) -> Floats:
    rows = np.atleast_2d(np.asarray(vectors, dtype=np.float64))
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    result: Floats = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return result
