"""Groups explanations by likeness; the most central one names its group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy.orm import Session

from labeler.embedding.base import Embedder
from labeler.embedding.embedders import fitted_to
from labeler.judge.evidence_explanation import short_form
from labeler.store.judging import explanations_for
from taxonomy.clustering import (
    DEFAULT_DISTANCE_THRESHOLD,
    LEAST_TEXTS,
    ClusterSample,
    canonical_text,
    centred,
    cluster,
    name_clusters,
    sweep_thresholds,
)
from taxonomy.mapping import Vectors


@dataclass(frozen=True)
class ExplanationCluster:
    """Latents with similar explanations."""

    name: str
    """Short form of the most central explanation."""
    latent_ids: tuple[int, ...]


def cluster_explanations(
    session: Session,
    embedder: Embedder,
    latent_ids: Sequence[int],
    judge_id: int,
    distance: float | None,
    seed: int = 0,
) -> tuple[ExplanationCluster, ...]:
    """Group the interpretable explanations that a judge works with, largest group first.

    Without a distance, the one at which subsamples agree best is used, given enough explanations.
    """
    known = explanations_for(session, latent_ids, judge_id)
    found = [known[key] for key in latent_ids if key in known and known[key].interpretable]
    if not found:
        return ()
    texts = [explanation.text for explanation in found]
    canonical = [canonical_text(text) for text in texts]
    rows = centred(fitted_to(embedder, canonical).embed(canonical))
    clustering = cluster(rows, distance if distance is not None else _sweep_distance(rows, seed))
    names = name_clusters(clustering, texts, _name)
    clusters = [
        ExplanationCluster(name, tuple(found[row].latent_id for row in clustering.members(number)))
        for number, name in enumerate(names)
    ]
    return tuple(sorted(clusters, key=lambda each: -len(each.latent_ids)))


def _sweep_distance(rows: Vectors, seed: int) -> float:
    if len(np.unique(rows, axis=0)) < LEAST_TEXTS:
        return DEFAULT_DISTANCE_THRESHOLD
    return sweep_thresholds(rows, seed=seed).threshold


def _name(sample: ClusterSample) -> str:
    return short_form(sample.medoid)
