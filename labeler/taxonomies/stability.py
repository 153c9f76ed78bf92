"""`taxonomy stability`: compares the active labelling with reruns.

Reruns need no judge: subsamples of latents, clusters of the stored explanations at several
distances, the judge's stored repeats, and labels of low confidence counted as none.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.embedding.base import Embedder
from labeler.embedding.embedders import fitted_to
from labeler.store.judging import explanations_for
from labeler.store.latents import current_setting
from labeler.store.outcomes import LABELLED
from labeler.store.schema import (
    Category,
    Comparison,
    EffectiveLabel,
    EffectiveLabelCategory,
    LabelSample,
)
from labeler.store.taxonomies import load_version
from taxonomy.clustering import average_linkage, canonical_text, centred, sweep_thresholds
from taxonomy.errors import InputError
from taxonomy.mapping import Vectors
from taxonomy.stability import (
    NONE,
    CategoryStability,
    Rerun,
    RerunSummary,
    category_stability,
    summarise_rerun,
)

DISTANCES = (0.9, 1.0, 1.1)
"""Cluster distances of the reruns, as multiples of the study's."""
CONFIDENCES = (0.3, 0.5, 0.7, 0.9)
"""Confidences below which a label counts as none."""


@dataclass(frozen=True)
class StabilityPlan:
    """Number and settings of the reruns."""

    n_subsamples: int = 20
    share: float = 0.8
    seed: int = 0
    distance: float | None = None
    min_members: int = 3


@dataclass(frozen=True)
class ComparisonStability:
    """Stability of one comparison over the reruns."""

    comparison: str
    reruns: tuple[RerunSummary, ...]
    categories: tuple[CategoryStability, ...]


@dataclass(frozen=True)
class _Members:
    """The latents of a comparison with their active labels, aligned."""

    latent_ids: tuple[int, ...]
    is_target: tuple[bool, ...]
    primary: tuple[str | None, ...]
    n_labels: tuple[int, ...]
    confidence: tuple[float | None, ...]


def comparison_stability(
    session: Session, comparison: Comparison, embedder: Embedder, plan: StabilityPlan
) -> ComparisonStability | None:
    """Rerun the labelling of a comparison in every way; None where nothing is labelled."""
    setting = current_setting(session, comparison.id)
    if setting is None:
        return None
    members = _members(session, comparison.id)
    if not any(label is not None for label in members.primary):
        return None
    vectors = _vectors(session, members, setting.judge_id, embedder)
    reruns = [
        *_subsamples(members, plan),
        *_confidences(members),
        *_repeats(session, members, setting.judge_id, setting.taxonomy_version_id),
        *_clusterings(members, vectors, plan),
    ]
    tree = load_version(session, setting.taxonomy_version_id)
    parents = {category.slug: category.parent for category in tree.categories}
    rows = category_stability(members.primary, reruns, members.is_target, parents)
    return ComparisonStability(
        comparison.name,
        tuple(summarise_rerun(members.primary, rerun) for rerun in reruns),
        tuple(row for row in rows if row.reported_sign is not None),
    )


def _members(session: Session, comparison_id: int) -> _Members:
    labels = session.execute(
        select(EffectiveLabel)
        .where(EffectiveLabel.comparison_id == comparison_id)
        .order_by(EffectiveLabel.side.desc(), EffectiveLabel.latent_id)
    ).scalars()
    chosen: dict[tuple[str, int], list[tuple[str, float | None]]] = {}
    rows = session.execute(
        select(EffectiveLabelCategory, Category.slug)
        .join(Category, Category.id == EffectiveLabelCategory.category_id)
        .where(EffectiveLabelCategory.comparison_id == comparison_id)
        .order_by(EffectiveLabelCategory.rank)
    )
    for row, slug in rows:
        chosen.setdefault((row.side, row.latent_id), []).append((slug, row.confidence))
    kept = list(labels)
    own = [chosen.get((label.side, label.latent_id), []) for label in kept]
    return _Members(
        latent_ids=tuple(label.latent_id for label in kept),
        is_target=tuple(label.side == "target" for label in kept),
        primary=tuple(
            categories[0][0] if categories else (NONE if label.outcome == "none" else None)
            for label, categories in zip(kept, own, strict=True)
        ),
        n_labels=tuple(len(categories) for categories in own),
        confidence=tuple(categories[0][1] if categories else None for categories in own),
    )


def _vectors(
    session: Session, members: _Members, judge_id: int, embedder: Embedder
) -> dict[int, Vectors]:
    """Position of a labelled latent -> vector of its explanation."""
    known = explanations_for(session, sorted(set(members.latent_ids)), judge_id)
    rows = [
        row
        for row, latent_id in enumerate(members.latent_ids)
        if latent_id in known and members.primary[row] is not None
    ]
    texts = [canonical_text(known[members.latent_ids[row]].text) for row in rows]
    vectors = fitted_to(embedder, texts).embed(texts) if texts else np.zeros((0, 1))
    return {
        row: np.asarray(vector, dtype=np.float64) for row, vector in zip(rows, vectors, strict=True)
    }


def _subsamples(members: _Members, plan: StabilityPlan) -> Iterator[Rerun]:
    n = len(members.primary)
    for number in range(plan.n_subsamples):
        generator = np.random.default_rng([plan.seed, number])
        kept = set(generator.choice(n, round(plan.share * n), replace=False).tolist())
        yield Rerun(
            "subsample",
            f"{plan.share:.0%}, seed {plan.seed}.{number}",
            tuple(label if row in kept else None for row, label in enumerate(members.primary)),
            members.n_labels,
        )


def _confidences(members: _Members) -> Iterator[Rerun]:
    for threshold in CONFIDENCES:
        if not any(value is not None and value < threshold for value in members.confidence):
            continue
        labels = tuple(
            NONE if value is not None and value < threshold else label
            for label, value in zip(members.primary, members.confidence, strict=True)
        )
        yield Rerun("confidence", f"below {threshold} is none", labels, members.n_labels)


def _repeats(
    session: Session, members: _Members, judge_id: int, version_id: int
) -> Iterator[Rerun]:
    """The judge's further answers, each sample a labelling of the latents that it answered."""
    rows = session.execute(
        select(LabelSample, Category.slug)
        .outerjoin(Category, Category.id == LabelSample.category_id)
        .where(
            LabelSample.judge_id == judge_id,
            LabelSample.taxonomy_version_id == version_id,
            LabelSample.outcome.in_(LABELLED),
        )
        .order_by(LabelSample.id)
    )
    samples: dict[int, dict[int, str]] = {}
    for row, slug in rows:
        samples.setdefault(row.sample, {})[row.latent_id] = slug or NONE
    for sample, answers in sorted(samples.items()):
        labels = tuple(answers.get(latent_id) for latent_id in members.latent_ids)
        yield Rerun("repeat", f"sample {sample}", labels, (1,) * len(labels))


def _clusterings(
    members: _Members, vectors: dict[int, Vectors], plan: StabilityPlan
) -> Iterator[Rerun]:
    """Clusters of subsamples of the explanations, at distances around the study's."""
    rows = sorted(vectors)
    if not rows:
        return
    table = centred(np.stack([vectors[row] for row in rows]))
    distance = plan.distance
    if distance is None:
        try:
            sweep = sweep_thresholds(table, seed=plan.seed, min_members=plan.min_members)
        except InputError:
            return
        distance = sweep.threshold
    for number in range(max(1, plan.n_subsamples // len(DISTANCES))):
        generator = np.random.default_rng([plan.seed, 1, number])
        kept = np.sort(generator.choice(len(rows), round(plan.share * len(rows)), replace=False))
        tree = average_linkage(table[kept])
        for factor in DISTANCES:
            rerun_distance = min(2.0, distance * factor)
            labels = _cluster_labels(tree.cut(rerun_distance).tolist(), plan.min_members)
            found: list[str | None] = [None] * len(members.primary)
            for place, label in zip(kept.tolist(), labels, strict=True):
                found[rows[place]] = label
            setting = f"distance {rerun_distance:.3f}, seed {plan.seed}.{number}"
            yield Rerun(
                "clustering", setting, tuple(found), (1,) * len(found), names_are_categories=False
            )


def _cluster_labels(cut: Sequence[int], min_members: int) -> list[str]:
    sizes = np.bincount(cut)
    return [str(label) if sizes[label] >= min_members else NONE for label in cut]
