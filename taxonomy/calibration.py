"""Where `none` begins: the score below which a text is mapped to no category."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taxonomy.errors import InputError
from taxonomy.mapping import (
    DEFAULT_NONE_THRESHOLD,
    CategoryIndex,
    Vectors,
    blend,
    raw_similarities,
    standardise,
)

LEAST_THRESHOLD = 1.0
"""A threshold is never lower: within one standard deviation of foreign text is no evidence."""

_LEAST_LEAVES = 10
"""Leaves from which a quantile over leaves means something."""


@dataclass(frozen=True)
class NoneCalibration:
    """A threshold, from how many texts it comes, and the leave-one-out accuracy beside it.

    `accuracy` is the share of single prototypes whose nearest leaf is their own when they are left
    out of it; None where no leaf has two prototypes.
    """

    threshold: float
    n_texts: int
    accuracy: float | None


def leave_one_out_scores(index: CategoryIndex) -> Vectors:
    """Scores (P, C) of every prototype, each compared with its own leaf as if it were not in it."""
    raw = raw_similarities(index.prototypes, index)
    similarity = index.prototypes @ index.prototypes.T
    to_definitions = index.prototypes @ index.definitions.T
    for row, leaf in enumerate(index.owners):
        others = index.owners == leaf
        others[row] = False
        raw[row, leaf] = blend(
            to_definitions[row : row + 1, leaf], similarity[row : row + 1, others], index
        )[0]
    return standardise(raw, index)


def calibrate_none_threshold(index: CategoryIndex, pass_rate: float = 0.95) -> NoneCalibration:
    """Threshold that the prototypes of `pass_rate` of the leaves pass when they are left out.

    A leaf's prototypes stand for the snippets of one latent: the mean of their leave-one-out scores
    is what such a latent would get, and the threshold is the (1 - pass_rate) quantile over leaves.
    It is never under `LEAST_THRESHOLD`, and `DEFAULT_NONE_THRESHOLD` where fewer than 10 leaves
    have two prototypes or more.
    """
    counts = np.bincount(index.owners, minlength=len(index.slugs))
    usable = np.flatnonzero(counts >= 2)
    if len(usable) == 0:
        return NoneCalibration(DEFAULT_NONE_THRESHOLD, 0, None)
    scores = leave_one_out_scores(index)
    known = np.isin(index.owners, usable)
    accuracy = float((scores.argmax(axis=1) == index.owners)[known].mean())
    if len(usable) < _LEAST_LEAVES:
        return NoneCalibration(DEFAULT_NONE_THRESHOLD, int(known.sum()), accuracy)
    coherent = [scores[index.owners == leaf, leaf].mean() for leaf in usable]
    threshold = max(LEAST_THRESHOLD, float(np.quantile(coherent, 1 - pass_rate)))
    return NoneCalibration(threshold, int(known.sum()), accuracy)


def threshold_from_labelled(best_scores: npt.ArrayLike, belongs_somewhere: Sequence[bool]) -> float:
    """Threshold on the best score (n,) that tells labelled latents from `none` best.

    It maximises the balanced accuracy and lies in the middle of the gap; the lowest one wins a tie.
    Raises InputError unless both kinds occur.
    """
    scores = np.asarray(best_scores, dtype=np.float64)
    assigned = np.asarray(belongs_somewhere, dtype=bool)
    if scores.shape != assigned.shape or assigned.all() or not assigned.any():
        raise InputError("a none threshold needs labelled latents of both kinds, assigned and none")
    values = np.unique(scores)
    cuts = np.concatenate([[values[0]], (values[:-1] + values[1:]) / 2])
    balanced = [(scores[assigned] >= cut).mean() + (scores[~assigned] < cut).mean() for cut in cuts]
    return float(cuts[int(np.argmax(balanced))])
