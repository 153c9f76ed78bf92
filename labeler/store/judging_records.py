"""Writing judges, prompts, calls, explanations, scores and judge labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from labeler.store.effective import refresh_effective
from labeler.store.helpers import get_or_create, json_sha256, number
from labeler.store.latent_records import freeze_version
from labeler.store.schema import (
    Explanation,
    ExplanationScore,
    Judge,
    JudgeCall,
    JudgeLabel,
    JudgeLabelCategory,
    Prompt,
)


@dataclass(frozen=True)
class CallRow:
    """One call that ended."""

    judge_id: int
    request_sha256: str
    stage: str
    run_id: int
    status: str
    raw: str | None
    sample: int = 0
    parsed: Mapping[str, Any] | None = None
    latent_id: int | None = None
    prompt_id: int | None = None
    error: str | None = None
    latency_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


@dataclass(frozen=True)
class LabelCategory:
    """A category of a judge's label; the first of a sequence is the primary one."""

    category_id: int
    confidence: float | None = None
    quote: str | None = None


@dataclass(frozen=True)
class LabelRow:
    """A judge's outcome for one latent."""

    run_id: int
    latent_id: int
    judge_id: int
    taxonomy_version_id: int
    outcome: str
    categories: tuple[LabelCategory, ...] = ()
    explanation_id: int | None = None
    judge_call_id: int | None = None
    carried_from_id: int | None = None
    confidence: float | None = None
    is_control: bool = False
    """Set too where the explanation is a control."""


def get_or_create_judge(
    session: Session,
    name: str,
    model: str,
    endpoint_kind: str,
    params: Mapping[str, Any] | None = None,
    params_sha256: str | None = None,
) -> Judge:
    """The judge with this identity."""
    content = dict(params or {})
    key = {
        "name": name,
        "model": model,
        "endpoint_kind": endpoint_kind,
        "params_sha256": params_sha256 or json_sha256(content),
    }
    return get_or_create(session, Judge, key, params=content)


def get_or_create_prompt(session: Session, sha256: str, name: str, text: str) -> Prompt:
    """The prompt with this hash."""
    return get_or_create(session, Prompt, {"sha256": sha256}, name=name, text=text)


def find_ok_call(
    session: Session, judge_id: int, request_sha256: str, sample: int = 0
) -> JudgeCall | None:
    """The newest answered call of that request: what need not be paid twice."""
    return session.execute(
        select(JudgeCall)
        .where(
            JudgeCall.judge_id == judge_id,
            JudgeCall.request_sha256 == request_sha256,
            JudgeCall.sample == sample,
            JudgeCall.status == "ok",
        )
        .order_by(JudgeCall.attempt.desc())
        .limit(1)
    ).scalar_one_or_none()


def record_call(session: Session, call: CallRow) -> JudgeCall:
    """Write one call that ended, under the next free attempt number."""
    same = (
        JudgeCall.judge_id == call.judge_id,
        JudgeCall.request_sha256 == call.request_sha256,
        JudgeCall.sample == call.sample,
    )
    values = {**call.__dict__, "parsed": None if call.parsed is None else dict(call.parsed)}
    while True:
        last = session.execute(select(func.max(JudgeCall.attempt)).where(*same)).scalar_one()
        row = JudgeCall(**values, attempt=0 if last is None else last + 1)
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            taken = session.execute(select(func.max(JudgeCall.attempt)).where(*same)).scalar_one()
            if taken == last:
                raise
            continue
        return row


def add_explanation(
    session: Session,
    run_id: int,
    latent_id: int,
    judge_id: int,
    text: str,
    judge_call_id: int | None = None,
    interpretable: bool = True,
    confidence: float | None = None,
    is_control: bool = False,
) -> Explanation:
    """Write one explanation; effective labels that lack one get it."""
    row = Explanation(
        run_id=run_id,
        latent_id=latent_id,
        judge_id=judge_id,
        judge_call_id=judge_call_id,
        text=text,
        interpretable=interpretable,
        confidence=number(confidence),
        is_control=is_control,
    )
    session.add(row)
    session.flush()
    if not is_control:
        refresh_effective(session, latent_ids=[latent_id])
    return row


def add_explanation_score(session: Session, **values: Any) -> ExplanationScore:
    """Write one score; the values are the columns of `explanation_score`."""
    row = ExplanationScore(**values)
    session.add(row)
    session.flush()
    return row


def add_judge_label(session: Session, label: LabelRow) -> JudgeLabel:
    """Write one label; see `add_judge_labels`."""
    return session.get_one(JudgeLabel, add_judge_labels(session, [label])[0])


def add_judge_labels(session: Session, labels: Iterable[LabelRow]) -> list[int]:
    """Write labels in their order and refresh the effective labels; returns their ids.

    ValueError for categories without the outcome `assigned`, or the other way round.
    """
    pending = list(labels)
    controls = _control_explanations(session, pending)
    for version in {label.taxonomy_version_id for label in pending}:
        freeze_version(session, version)
    rows = [_label_row(label, label.explanation_id in controls) for label in pending]
    session.add_all(rows)
    session.flush()
    categories = [
        value
        for row, label in zip(rows, pending, strict=True)
        for value in _category_rows(row.id, label.categories)
    ]
    if categories:
        session.execute(insert(JudgeLabelCategory), categories)
    refresh_effective(session, latent_ids=[label.latent_id for label in pending])
    return [row.id for row in rows]


def _control_explanations(session: Session, labels: Sequence[LabelRow]) -> set[int]:
    ids = {label.explanation_id for label in labels if label.explanation_id is not None}
    if not ids:
        return set()
    query = select(Explanation.id).where(Explanation.is_control)
    if len(ids) == 1:
        query = query.where(Explanation.id == next(iter(ids)))
    return set(session.execute(query).scalars()) & ids


def _label_row(label: LabelRow, on_control: bool) -> JudgeLabel:
    if (label.outcome == "assigned") != bool(label.categories):
        raise ValueError(
            f"outcome {label.outcome!r} with {len(label.categories)} categories: only and always"
            " 'assigned' has categories"
        )
    return JudgeLabel(
        run_id=label.run_id,
        latent_id=label.latent_id,
        judge_id=label.judge_id,
        taxonomy_version_id=label.taxonomy_version_id,
        explanation_id=label.explanation_id,
        judge_call_id=label.judge_call_id,
        carried_from_id=label.carried_from_id,
        outcome=label.outcome,
        confidence=number(label.confidence),
        is_control=label.is_control or on_control,
    )


def _category_rows(
    label_id: int, categories: Sequence[LabelCategory]
) -> Iterable[dict[str, object]]:
    for rank, category in enumerate(categories, start=1):
        yield {
            "judge_label_id": label_id,
            "rank": rank,
            "category_id": category.category_id,
            "confidence": number(category.confidence),
            "quote": category.quote,
        }
