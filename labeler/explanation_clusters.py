"""Groups of like explanations, named by their most central one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.orm import Session

from labeler.embedding.base import Embedder
from labeler.judge.wording import short_form
from labeler.labeling import newest_explanation
from taxonomy.clustering import ClusterSample, cluster, name_clusters


@dataclass(frozen=True)
class ExplanationCluster:
    """Latents whose explanations are alike."""

    name: str
    """Short form of the most central explanation."""
    latent_ids: tuple[int, ...]


def cluster_explanations(
    session: Session,
    embedder: Embedder,
    latent_ids: Sequence[int],
    judge_id: int,
    distance: float,
) -> tuple[ExplanationCluster, ...]:
    """Group the interpretable explanations of a judge, largest group first."""
    found = [
        explanation
        for latent_id in latent_ids
        if (explanation := newest_explanation(session, latent_id, judge_id)) is not None
        and explanation.interpretable
    ]
    if not found:
        return ()
    texts = [explanation.text for explanation in found]
    clustering = cluster(embedder.embed(texts), distance)
    names = name_clusters(clustering, texts, _name)
    clusters = [
        ExplanationCluster(name, tuple(found[row].latent_id for row in clustering.members(number)))
        for number, name in enumerate(names)
    ]
    return tuple(sorted(clusters, key=lambda each: -len(each.latent_ids)))


def _name(sample: ClusterSample) -> str:
    return short_form(sample.medoid)
