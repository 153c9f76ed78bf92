"""Reads what a comparison rests on: judge, crosscoders, hashes, runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.report.comparisons import ActiveComparison
from labeler.report.model import CrosscoderView, Fingerprint, JudgeView, LabelRevision, RunView
from labeler.store.judge_checks import newest_judge_check
from labeler.store.schema import (
    Corpus,
    Crosscoder,
    CrosscoderModel,
    EffectiveLabel,
    Evidence,
    Explanation,
    Judge,
    JudgeLabel,
    Latent,
    LatentSetMember,
    ReviewEvent,
    Run,
    SubjectModel,
)
from labeler.study.text_read import reading_sentence

_STAGES = ("harvest", "train", "isolate", "collect", "label", "score", "categorize")


def read_judge(session: Session, facts: ActiveComparison) -> JudgeView:
    """The active judge."""
    judge = session.get_one(Judge, facts.judge_id)
    check = newest_judge_check(session, judge.id)
    return JudgeView(
        judge.name,
        judge.model,
        judge.endpoint_kind,
        dict(judge.params),
        judge.params_sha256,
        worth=None if check is None else check.words,
    )


def read_crosscoders(session: Session, facts: ActiveComparison) -> tuple[CrosscoderView, ...]:
    """The crosscoders that the latents of both sides belong to."""
    return tuple(_crosscoder(session, row) for row in _crosscoders(session, facts))


def _crosscoders(session: Session, facts: ActiveComparison) -> list[Crosscoder]:
    """The target's first, then the reference's, each once; several of one side by name."""
    found: dict[int, Crosscoder] = {}
    for latent_set in (facts.target_set, facts.reference_set):
        used = (
            select(Latent.crosscoder_id)
            .join(LatentSetMember, LatentSetMember.latent_id == Latent.id)
            .where(LatentSetMember.latent_set_id == latent_set.id)
        )
        query = select(Crosscoder).where(Crosscoder.id.in_(used)).order_by(Crosscoder.name)
        found |= {row.id: row for row in session.scalars(query) if row.id not in found}
    return list(found.values())


def _crosscoder(session: Session, row: Crosscoder) -> CrosscoderView:
    quality = _quality(session, row)
    return CrosscoderView(
        name=row.name,
        sha256=row.sha256,
        n_latents=row.n_latents,
        models=tuple(model.name for model in _models(session, row.id)),
        fve=_fve(quality.get("fve")),
        l0=_number(quality.get("l0")),
        inactive_share=_number(quality.get("inactive_share")),
        dead_share=_number(quality.get("dead_share")),
    )


def _models(session: Session, crosscoder_id: int) -> list[SubjectModel]:
    return list(
        session.scalars(
            select(SubjectModel)
            .join(CrosscoderModel, CrosscoderModel.subject_model_id == SubjectModel.id)
            .where(CrosscoderModel.crosscoder_id == crosscoder_id)
            .order_by(CrosscoderModel.position)
        )
    )


def _quality(session: Session, row: Crosscoder) -> dict[str, Any]:
    """What the training run recorded of the crosscoder's quality on held-out text."""
    run = session.get(Run, row.run_id) if row.run_id is not None else None
    if run is None or run.result is None:
        return {}
    quality = run.result
    if "crosscoders" in run.result:
        quality = run.result["crosscoders"].get(row.sha256)
    return quality if isinstance(quality, dict) else {}


def _fve(value: object) -> tuple[tuple[str, float], ...]:
    """Fraction of variance explained per model."""
    pairs = value.items() if isinstance(value, dict) else ()
    return tuple((name, float(fve)) for name, fve in pairs if _number(fve) is not None)


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def read_embedder(session: Session, facts: ActiveComparison) -> str | None:
    """Name of the embedder of the newest categorisation that gave an active label here."""
    result = session.scalar(
        select(Run.result)
        .where(
            Run.kind == "categorize",
            Run.status == "done",
            Run.id.in_(set(_label_runs(session, facts))),
        )
        .order_by(Run.id.desc())
        .limit(1)
    )
    name = (result or {}).get("embedder")
    return name if isinstance(name, str) else None


def read_revision(session: Session, facts: ActiveComparison) -> LabelRevision:
    """The newest judge label and decision there are, and when an active label last changed."""
    return LabelRevision(
        newest_judge_label=session.scalar(select(func.max(JudgeLabel.id))),
        newest_decision=session.scalar(select(func.max(ReviewEvent.id))),
        labels_changed_at=facts.comparison.labels_changed_at,
    )


def read_fingerprints(session: Session, facts: ActiveComparison) -> tuple[Fingerprint, ...]:
    """Hashes of the models, the text, the crosscoders, the taxonomy and the judge's settings."""
    found: list[Fingerprint] = []
    for row in _crosscoders(session, facts):
        for model in _models(session, row.id):
            found.append(Fingerprint("model", model.name, model.fingerprint))
        if row.corpus_id is not None:
            corpus = session.get_one(Corpus, row.corpus_id)
            found.append(Fingerprint("text", corpus.name, corpus.sha256))
        if row.sha256 is not None:
            found.append(Fingerprint("crosscoder", row.name, row.sha256))
    version = facts.version
    found.append(Fingerprint("taxonomy", f"{version.name} {version.version}", version.sha256))
    judge = session.get_one(Judge, facts.judge_id)
    found.append(Fingerprint("judge settings", judge.name, judge.params_sha256))
    return tuple(dict.fromkeys(found))


def read_runs(
    session: Session, facts: ActiveComparison, report_run_id: int | None
) -> tuple[RunView, ...]:
    """The runs that made the latents, their evidence, labels, and this report, oldest first."""
    runs: dict[int, Run] = {}
    ids = set(_referenced(session, facts))
    referenced = session.scalars(select(Run).where(Run.id.in_(ids))).all()
    ids |= {report_run_id} if report_run_id is not None else set()
    ids |= set(_unreferenced_stages(session, referenced))
    while ids:
        for run in session.scalars(select(Run).where(Run.id.in_(ids))):
            runs[run.id] = run
        ids = {run.parent_run_id for run in runs.values() if run.parent_run_id is not None}
        ids -= runs.keys()
    return tuple(_run(runs[run_id]) for run_id in sorted(runs))


def read_text(session: Session, runs: Sequence[RunView]) -> str:
    """What the models read and whose answers those were, by the newest harvest among the runs."""
    harvests = [run.run_id for run in runs if run.kind == "harvest"]
    return reading_sentence(session.get_one(Run, max(harvests)).result) if harvests else ""


def _referenced(session: Session, facts: ActiveComparison) -> Iterable[int]:
    sets = (facts.target_set, facts.reference_set)
    members = select(LatentSetMember.latent_id).where(
        LatentSetMember.latent_set_id.in_([latent_set.id for latent_set in sets])
    )
    yield from (latent_set.run_id for latent_set in sets)
    yield from (row.run_id for row in _crosscoders(session, facts) if row.run_id is not None)
    yield from session.scalars(
        select(Evidence.run_id).where(Evidence.latent_id.in_(members)).distinct()
    )
    yield from _label_runs(session, facts)
    yield from session.scalars(
        select(Explanation.run_id)
        .join(EffectiveLabel, EffectiveLabel.explanation_id == Explanation.id)
        .where(EffectiveLabel.comparison_id == facts.comparison.id)
        .distinct()
    )


def _label_runs(session: Session, facts: ActiveComparison) -> Iterable[int]:
    """The runs that gave the active labels."""
    return session.scalars(
        select(JudgeLabel.run_id)
        .join(EffectiveLabel, EffectiveLabel.judge_label_id == JudgeLabel.id)
        .where(EffectiveLabel.comparison_id == facts.comparison.id)
        .distinct()
    )


def _unreferenced_stages(session: Session, referenced: Sequence[Run]) -> Iterator[int]:
    """The newest finished run of each stage whose product no row points back to.

    Such as the harvest: of its runs the newest before the first run that could have read it. Where
    no later stage is referenced, as for imported latents, the stage had no part in the result.
    """
    kinds = {run.kind for run in referenced}
    for place, kind in enumerate(_STAGES):
        later = [run.id for run in referenced if run.kind in _STAGES[place + 1 :]]
        if kind in kinds or not later:
            continue
        found = session.scalar(
            select(func.max(Run.id)).where(
                Run.status == "done", Run.kind == kind, Run.id < min(later)
            )
        )
        if found is not None:
            yield found


def _run(run: Run) -> RunView:
    return RunView(
        run_id=run.id,
        kind=run.kind,
        status=run.status,
        started_at=run.started_at,
        finished_at=run.finished_at,
        config_sha256=run.config_sha256,
        code_version=run.code_version,
    )
