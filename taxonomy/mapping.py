"""Which category a text is nearest to, and the score below which it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from taxonomy.errors import InputError

Vectors = npt.NDArray[np.float64]
"""Float64 array; shapes are given where it is used."""

DEFINITION_WEIGHT = 0.25
"""w above: with 0 a leaf is only its examples, from 0.5 on its examples hardly count."""

TOP_PROTOTYPES = 2
"""k above: one hit may be chance, and a leaf rarely has three examples of one facet."""

DEFAULT_NONE_THRESHOLD = 1.5
"""Score below which a text belongs nowhere, where no calibration was possible."""

TEMPERATURE = 0.3
"""Score difference that changes the odds of two leaves by a factor e."""

_SPREAD_SHRINKAGE = 0.5
"""How far a leaf's spread moves to the median one: it is estimated from few texts."""


@dataclass(frozen=True)
class LeafVectors:
    """A leaf as vectors: its definition (e,) and its prototypes (p, e), p may be 0."""

    slug: str
    definition: npt.ArrayLike
    prototypes: npt.ArrayLike


@dataclass(frozen=True)
class CategoryIndex:
    """All leaves, ready to be compared with texts; made by `build_index`."""

    slugs: tuple[str, ...]
    definitions: Vectors
    """(C, e), rows of length 1."""
    prototypes: Vectors
    """(P, e), rows of length 1."""
    owners: npt.NDArray[np.int64]
    """(P,) leaf of each prototype."""
    level: Vectors
    """(C,) mean raw similarity to foreign text."""
    spread: Vectors
    """(C,) standard deviation of the raw similarity to foreign text, shrunk to the median."""
    definition_weight: float
    top_prototypes: int


def build_index(
    leaves: Sequence[LeafVectors],
    *,
    definition_weight: float = DEFINITION_WEIGHT,
    top_prototypes: int = TOP_PROTOTYPES,
) -> CategoryIndex:
    """Make the index of at least one leaf; leaves without prototypes count by definition alone.

    Raises InputError where there is no leaf or the vectors differ in width.
    """
    if not leaves:
        raise InputError("a taxonomy without leaves has nothing to map to; add a category")
    definitions = normalise_rows(np.stack([np.asarray(leaf.definition) for leaf in leaves]))
    groups = [_prototypes_of(leaf, definitions.shape[1]) for leaf in leaves]
    owners = np.repeat(np.arange(len(leaves)), [len(group) for group in groups])
    bare = CategoryIndex(
        slugs=tuple(leaf.slug for leaf in leaves),
        definitions=definitions,
        prototypes=np.concatenate(groups),
        owners=owners,
        level=np.zeros(len(leaves)),
        spread=np.ones(len(leaves)),
        definition_weight=definition_weight,
        top_prototypes=top_prototypes,
    )
    level, spread = _foreign_level_and_spread(bare)
    return CategoryIndex(**(vars(bare) | {"level": level, "spread": spread}))


def raw_similarities(texts: npt.ArrayLike, index: CategoryIndex) -> Vectors:
    """Compare texts (n, e) with every leaf; returns (n, C), in units of cosine."""
    rows = normalise_rows(texts)
    if rows.shape[1] != index.definitions.shape[1]:
        raise InputError(
            f"texts have vectors of width {rows.shape[1]}, the categories of width "
            f"{index.definitions.shape[1]}; embed both with the same model"
        )
    to_definitions = rows @ index.definitions.T
    to_prototypes = rows @ index.prototypes.T
    columns = [
        blend(to_definitions[:, leaf], to_prototypes[:, index.owners == leaf], index)
        for leaf in range(len(index.slugs))
    ]
    return np.stack(columns, axis=1)


def blend(to_definition: Vectors, to_prototypes: Vectors, index: CategoryIndex) -> Vectors:
    """Similarities (n,) to a definition and (n, p) to its prototypes as one raw similarity (n,)."""
    if to_prototypes.shape[1] == 0:
        return to_definition
    best = -np.sort(-to_prototypes, axis=1)[:, : index.top_prototypes]
    weight = index.definition_weight
    result: Vectors = weight * to_definition + (1 - weight) * best.mean(axis=1)
    return result


def standardise(raw: Vectors, index: CategoryIndex) -> Vectors:
    """Raw similarities (..., C) in standard deviations above the leaf's level on foreign text."""
    result: Vectors = (raw - index.level) / index.spread
    return result


def normalise_rows(vectors: npt.ArrayLike) -> Vectors:
    """Scale the rows of (n, e) to length 1; a row of zeros stays as it is."""
    rows = np.asarray(vectors, dtype=np.float64)
    if rows.ndim != 2:
        raise InputError(f"vectors must have the shape (n, e), not {rows.shape}")
    if not np.isfinite(rows).all():
        raise InputError("a sentence vector has a value that is no number; embed the texts again")
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    result: Vectors = rows / np.where(lengths > 0, lengths, 1.0)
    return result


def _prototypes_of(leaf: LeafVectors, width: int) -> Vectors:
    rows = np.asarray(leaf.prototypes, dtype=np.float64)
    if rows.size == 0:
        return np.zeros((0, width))
    rows = normalise_rows(rows)
    if rows.shape[1] != width:
        raise InputError(
            f"{leaf.slug}: prototypes of width {rows.shape[1]}, definition of width {width}"
        )
    return rows


def _foreign_level_and_spread(index: CategoryIndex) -> tuple[Vectors, Vectors]:
    """Mean and spread (C,) of each leaf's raw similarity to the other leaves' texts.

    These are their prototypes, or their definitions where a taxonomy has hardly any prototypes.
    """
    n_leaves = len(index.slugs)
    use_prototypes = len(index.prototypes) >= 2 * n_leaves
    texts = index.prototypes if use_prototypes else index.definitions
    owners = index.owners if use_prototypes else np.arange(n_leaves)
    raw = raw_similarities(texts, index)
    level, spread = np.zeros(n_leaves), np.ones(n_leaves)
    for leaf in range(n_leaves):
        foreign = raw[owners != leaf, leaf]
        if len(foreign) >= 2:
            level[leaf], spread[leaf] = foreign.mean(), foreign.std()
    spread = (1 - _SPREAD_SHRINKAGE) * spread + _SPREAD_SHRINKAGE * float(np.median(spread))
    return level, np.where(spread > 0, spread, 1.0)


LEAST_THRESHOLD = 1.0
"""A threshold is never lower: within one standard deviation of foreign text is no evidence."""

_LEAST_LEAVES = 10
"""Leaves from which a quantile over leaves means something."""


@dataclass(frozen=True)
class NoneCalibration:
    """A threshold for `none`, the number of texts behind it, and the leave-one-out accuracy.

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
