"""Classifies latents by category: multinomial logistic regression on few labelled ones.

The logit of leaf c for a latent with features x and similarity s_c to the leaf's texts is

    z_c = w_c . x + a * s_c + b + d_c        and        z_none = w_0 . x + d_0

The weight a of the similarity and the offset b are shared by all leaves. A leaf without labelled
latents has w_c = 0 and d_c = 0: it is recognised by its definition and prototypes alone, with the
trust in them that the labelled leaves have earned. The squares of w_c and d_c are penalised.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from taxonomy.errors import InputError

Floats = npt.NDArray[np.float64]
"""Float64 array; shapes are given where it is used."""

RIDGE = 1.0
"""Penalty of squared weights, in units of one labelled latent's log-likelihood."""
MAX_STEPS = 200


@dataclass(frozen=True)
class HeadRows:
    """Latents as the head reads them."""

    features: Floats
    """(n, d)."""
    similarities: Floats
    """(n, C): similarity to each leaf's definition and prototypes."""


@dataclass(frozen=True)
class CategoryHead:
    """Fitted weights; column C of the last axis stands for `none`."""

    weights: Floats
    """(C + 1, d); rows of zeros for leaves without labelled latents."""
    offsets: Floats
    """(C + 1,)."""
    similarity_weight: float

    def logits(self, rows: HeadRows) -> Floats:
        """Logits (n, C + 1)."""
        result: Floats = rows.features @ self.weights.T + self.offsets
        result[:, :-1] += self.similarity_weight * rows.similarities
        return result

    def probabilities(self, rows: HeadRows) -> Floats:
        """Probability (n, C + 1) of each leaf and of `none`."""
        result: Floats = softmax(self.logits(rows), axis=1)
        return result


def fit_head(
    rows: HeadRows,
    labels: Sequence[int] | npt.NDArray[np.int64],
    weights: npt.ArrayLike | None = None,
    *,
    ridge: float = RIDGE,
) -> CategoryHead:
    """Maximise the penalised likelihood of labels (n,), where C stands for `none`.

    Row weights (n,) are scaled so that all labelled categories count the same and their mean is 1.
    Raises InputError with fewer than two labelled categories.
    """
    n_leaves = rows.similarities.shape[1]
    width = rows.features.shape[1]
    known, classes = np.unique(np.asarray(labels, dtype=np.int64), return_inverse=True)
    if len(known) < 2:
        raise InputError("a head needs labelled latents of at least two categories")
    balanced = _balanced(classes, np.ones(len(classes)) if weights is None else weights)
    is_leaf = known < n_leaves
    similarities = np.zeros((len(classes), len(known)))
    similarities[:, is_leaf] = rows.similarities[:, known[is_leaf]]

    def loss(packed: Floats) -> tuple[float, Floats]:
        own = packed[:-2].reshape(len(known), width + 1)
        scale, offset = packed[-2:]
        logits = rows.features @ own[:, :-1].T + own[:, -1] + scale * similarities
        logits[:, is_leaf] += offset
        log_p = log_softmax(logits, axis=1)
        value = -balanced @ log_p[np.arange(len(classes)), classes]
        slope = np.exp(log_p)
        slope[np.arange(len(classes)), classes] -= 1
        slope *= balanced[:, None]
        gradient = np.empty_like(packed)
        by_class = gradient[:-2].reshape(own.shape)
        by_class[:, :-1] = slope.T @ rows.features
        by_class[:, -1] = slope.sum(axis=0)
        by_class += ridge * own
        gradient[-2] = (slope * similarities).sum()
        gradient[-1] = slope[:, is_leaf].sum()
        return float(value + 0.5 * ridge * (own**2).sum()), gradient

    start = np.zeros(len(known) * (width + 1) + 2)
    start[-2] = 1.0
    best = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": MAX_STEPS}).x
    own = best[:-2].reshape(len(known), width + 1)
    all_weights = np.zeros((n_leaves + 1, width))
    offsets = np.full(n_leaves + 1, best[-1])
    offsets[-1] = 0.0
    all_weights[known] = own[:, :-1]
    offsets[known] += own[:, -1]
    return CategoryHead(all_weights, offsets, float(best[-2]))


def _balanced(classes: npt.NDArray[np.int64], weights: npt.ArrayLike) -> Floats:
    """Row weights with the same sum for each class and mean 1."""
    given = np.asarray(weights, dtype=np.float64)
    sums = np.bincount(classes, weights=given)
    balanced = given / sums[classes]
    result: Floats = balanced * (len(classes) / balanced.sum())
    return result
