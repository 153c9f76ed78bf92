"""Reads the latents of a comparison: active labels, scaling, and windows of evidence."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import func, select, text
from sqlalchemy.orm import Session, aliased

from crosscoder.config import SIDES, SideName
from crosscoder.isolation_rules import SHIFTED_WORDS
from labeler.report.basis import shift_words
from labeler.report.comparisons import ActiveComparison, LatentSetView, ScalingCloud, ShiftCloud
from labeler.report.model import EvidenceView, LatentView, Measure
from labeler.report.stored import side_label
from labeler.store.schema import (
    Evidence,
    Latent,
    LatentScaling,
    LatentSet,
    LatentSetMember,
    SubjectModel,
)


@dataclass(frozen=True)
class EvidenceLimits:
    """Windows shown for one latent, by kind."""

    top: int
    quantile: int
    negative: int
    other_model: int

    def of(self, kind: str) -> int:
        """Windows of a kind."""
        return int(getattr(self, kind))


FEW_LATENTS = 400
"""Latents up to which a page holds full evidence."""
MANY_LATENTS = 2_000
"""Latents up to which it holds any."""
MOST_LISTED = 2_500
"""Latents of one side that a page lists, the most specific ones."""
_FULL = EvidenceLimits(top=6, quantile=4, negative=2, other_model=2)
_SHORT = EvidenceLimits(top=3, quantile=1, negative=0, other_model=0)


def evidence_limits(n_latents: int) -> EvidenceLimits | None:
    """How much evidence a page of so many latents can hold; None = no evidence at all."""
    if n_latents <= FEW_LATENTS:
        return _FULL
    return _SHORT if n_latents <= MANY_LATENTS else None


_LABELS = text(
    "SELECT side, crosscoder, latent_index, latent_id, explanation, category, rank, outcome,"
    " confidence, source, judge, reviewer, strength_shift, shift_low, shift_high"
    " FROM v_effective_label WHERE comparison = :comparison"
    " ORDER BY latent_id, side, rank"
)


def read_latents(session: Session, facts: ActiveComparison) -> tuple[LatentView, ...]:
    """The latents of both sides, target first, the most specific of each side first."""
    labels: dict[tuple[str, int], list[Any]] = defaultdict(list)
    for row in session.execute(_LABELS, {"comparison": facts.comparison.name}):
        labels[row.side, row.latent_id].append(row)
    limits = evidence_limits(len(labels))
    latents: list[LatentView] = []
    for side in SIDES:
        latent_set = facts.latent_set(side)
        windows = read_evidence(session, latent_set.id, limits) if limits else {}
        latents += [
            _latent(side, member, labels[side, member.latent_id], windows)
            for member in _members(session, latent_set)[:MOST_LISTED]
            if (side, member.latent_id) in labels
        ]
    return tuple(latents)


def _members(session: Session, latent_set: LatentSet) -> list[Any]:
    return list(
        session.execute(
            select(
                LatentSetMember.latent_id,
                LatentSetMember.rank,
                Latent.density,
                Latent.n_documents,
                Latent.p_reappear,
                Latent.n_seeds,
                LatentScaling,
            )
            .join(Latent, Latent.id == LatentSetMember.latent_id)
            .outerjoin(
                LatentScaling,
                (LatentScaling.latent_id == Latent.id)
                & (LatentScaling.target_model_id == latent_set.target_model_id)
                & (LatentScaling.reference_model_id == latent_set.against_model_id),
            )
            .where(LatentSetMember.latent_set_id == latent_set.id)
            .order_by(
                LatentSetMember.rank.is_(None), LatentSetMember.rank, LatentSetMember.latent_id
            )
        )
    )


@dataclass(frozen=True)
class _Windows:
    shown: tuple[EvidenceView, ...]
    total: int


def _latent(
    side: SideName, member: Any, labels: list[Any], windows: dict[int, _Windows]
) -> LatentView:
    label, scaling = labels[0], member.LatentScaling
    found = windows.get(member.latent_id, _Windows((), 0))
    undefined = Measure(None, None, None)
    return LatentView(
        latent_id=member.latent_id,
        side=side,
        crosscoder=label.crosscoder,
        latent_index=label.latent_index,
        rank=member.rank,
        explanation=label.explanation,
        outcome=label.outcome,
        category=label.category,
        other_categories=tuple(row.category for row in labels[1:]),
        confidence=label.confidence,
        source=label.source,
        judge=label.judge,
        reviewer=label.reviewer,
        density=member.density,
        n_documents=member.n_documents,
        p_reappear=member.p_reappear,
        n_seeds=member.n_seeds,
        delta_norm=scaling.delta_norm if scaling else None,
        strength_shift=Measure(label.strength_shift, label.shift_low, label.shift_high),
        nu_error=_measure(scaling, "nu_error") if scaling else undefined,
        nu_reconstruction=_measure(scaling, "nu_reconstruction") if scaling else undefined,
        evidence=found.shown,
        n_evidence=found.total,
    )


def _measure(scaling: LatentScaling, name: str) -> Measure:
    return Measure(
        getattr(scaling, name), getattr(scaling, f"{name}_low"), getattr(scaling, f"{name}_high")
    )


_KIND_ORDER = {"top": 0, "quantile": 1, "other_model": 2, "negative": 3}


def read_evidence(session: Session, latent_set_id: int, limits: EvidenceLimits) -> dict[int, Any]:
    """The strongest windows of each latent of a set, from its newest collection."""
    mine = LatentSetMember.latent_set_id == latent_set_id
    newest = (
        select(Evidence.latent_id, func.max(Evidence.run_id).label("run_id"))
        .join(LatentSetMember, LatentSetMember.latent_id == Evidence.latent_id)
        .where(mine)
        .group_by(Evidence.latent_id)
        .subquery()
    )
    place = func.row_number().over(
        partition_by=(Evidence.latent_id, Evidence.kind),
        order_by=(Evidence.max_activation.desc(), Evidence.id),
    )
    total = func.count().over(partition_by=Evidence.latent_id)
    ranked = (
        select(Evidence, place.label("place"), total.label("total"))
        .join(
            newest,
            (newest.c.latent_id == Evidence.latent_id) & (newest.c.run_id == Evidence.run_id),
        )
        .subquery()
    )
    window = aliased(Evidence, ranked)
    most = max(limits.of(kind) for kind in _KIND_ORDER)
    rows = session.execute(
        select(window, ranked.c.place, ranked.c.total).where(ranked.c.place <= most)
    )
    shown: dict[int, list[Evidence]] = defaultdict(list)
    totals: dict[int, int] = {}
    for evidence, its_place, its_total in rows:
        totals[evidence.latent_id] = its_total
        if its_place <= limits.of(evidence.kind):
            shown[evidence.latent_id].append(evidence)
    return {
        latent_id: _Windows(
            tuple(map(evidence_view, sorted(shown[latent_id], key=_order))), n_windows
        )
        for latent_id, n_windows in totals.items()
    }


def _order(evidence: Evidence) -> tuple[int, float, int]:
    return _KIND_ORDER[evidence.kind], -evidence.max_activation, evidence.id


def evidence_view(evidence: Evidence) -> EvidenceView:
    """A window of evidence as pages show it."""
    return EvidenceView(
        kind=evidence.kind,
        split=evidence.split,
        quantile=evidence.quantile,
        document_id=evidence.document_id,
        start=evidence.start,
        tokens=tuple(evidence.tokens),
        roles=tuple(evidence.roles),
        activations=tuple(evidence.activations),
    )


def read_set(session: Session, facts: ActiveComparison, side: SideName) -> LatentSetView:
    """One side's latent set: its rule, what the rule saw, and the scaling of all latents."""
    latent_set = facts.latent_set(side)
    words = shift_words(facts.target_set, facts.reference_set)
    word = None if words is None else words[SIDES.index(side)]
    size = session.scalar(
        select(func.count()).where(LatentSetMember.latent_set_id == latent_set.id)
    )
    return LatentSetView(
        side=side,
        name=latent_set.name,
        label=side_label(session, latent_set, side),
        rule=latent_set.rule,
        rule_params=latent_set.rule_params,
        message=latent_set.message,
        target_model=_model_name(session, latent_set.target_model_id),
        against_model=_model_name(session, latent_set.against_model_id),
        size=size or 0,
        cloud=_cloud(session, latent_set, word),
        word=word,
    )


def _model_name(session: Session, model_id: int | None) -> str | None:
    return None if model_id is None else session.get_one(SubjectModel, model_id).name


def _cloud(session: Session, latent_set: LatentSet, word: str | None) -> ScalingCloud | None:
    if latent_set.target_model_id is None or latent_set.against_model_id is None:
        return None
    rows = session.execute(
        select(
            LatentScaling.delta_norm,
            LatentScaling.nu_error,
            LatentScaling.nu_reconstruction,
            LatentSetMember.latent_id.is_not(None),
            Latent.density,
            LatentScaling.strength_shift,
            LatentScaling.shift_t,
        )
        .join(Latent, Latent.id == LatentScaling.latent_id)
        .outerjoin(
            LatentSetMember,
            (LatentSetMember.latent_id == Latent.id)
            & (LatentSetMember.latent_set_id == latent_set.id),
        )
        .where(
            Latent.crosscoder_id == latent_set.crosscoder_id,
            LatentScaling.target_model_id == latent_set.target_model_id,
            LatentScaling.reference_model_id == latent_set.against_model_id,
        )
        .order_by(Latent.latent_index)
    ).all()
    if not rows:
        return None
    values = np.array([tuple(row) for row in rows], dtype=np.float64)
    # The set's own model uses its latents more strongly: seen from the target, they are weakened.
    sign = -1 if word == SHIFTED_WORDS["reference"] else 1
    shift = ShiftCloud(values[:, 4], sign * values[:, 5], sign * values[:, 6])
    return ScalingCloud(
        values[:, 0], values[:, 1], values[:, 2], values[:, 3] > 0, None if word is None else shift
    )
