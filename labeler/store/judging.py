"""Judges, prompts, calls, explanations with their scores, and judge labels in the database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, and_, func, insert, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from crosscoder.files import json_sha256
from labeler.store.effective import refresh_effective
from labeler.store.latents import freeze_version
from labeler.store.outcomes import (
    BY_NAME,
    ENDED_STATUSES,
    LABEL_OUTCOMES,
    OF_ONE_REQUEST,
    failed_outcome,
)
from labeler.store.schema import (
    Explanation,
    ExplanationScore,
    Judge,
    JudgeCall,
    JudgeLabel,
    JudgeLabelCategory,
    JudgeParameters,
    Latent,
    Prompt,
    ScoreCall,
    ShuffledExplanation,
)
from labeler.store.statements import chunks, get_or_create, newest_explanation_ids, number


@dataclass(frozen=True)
class CallRow:
    """One finished call."""

    judge_id: int
    request_sha256: str
    stage: str
    run_id: int
    status: str
    raw: str | None
    sample: int = 0
    parsed: Mapping[str, Any] | None = None
    options: Sequence[str] | None = None
    latent_id: int | None = None
    prompt_id: int | None = None
    error: str | None = None
    latency_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    estimated_prompt_tokens: int | None = None
    estimated_completion_tokens: int | None = None


@dataclass(frozen=True)
class LabelCategory:
    """A category of a judge's label; the first of a sequence is the primary one."""

    category_id: int
    confidence: float | None = None
    quote: str | None = None
    quote_found: bool | None = None
    """False where the quote is neither in the evidence nor in the explanation."""


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
    """Also True where the explanation is a control."""


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


def find_ended_calls(
    session: Session,
    judge_id: int,
    request_sha256s: Collection[str],
    failed_since: datetime | None = None,
) -> dict[str, JudgeCall]:
    """The call of each request that counts, by the request's hash.

    That is its newest answered call, else its newest final one (too long, refused), else, with
    `failed_since`, its last failure since then. The hash includes the sample. Final calls from
    before the judge's first answer are ignored: then the server was at fault, not the request.
    """
    found: dict[str, JudgeCall] = {}
    answered = and_(JudgeCall.judge_id == judge_id, JudgeCall.status == "ok")
    first_run = session.execute(select(func.min(JudgeCall.run_id)).where(answered)).scalar()
    ended = and_(JudgeCall.status.in_(ENDED_STATUSES), JudgeCall.run_id >= (first_run or 0))
    if first_run is None:
        ended = JudgeCall.status == "ok"
    for part in chunks(request_sha256s):
        query = select(JudgeCall).where(
            JudgeCall.judge_id == judge_id, JudgeCall.request_sha256.in_(part)
        )
        if failed_since is None:
            query = query.where(ended)
        else:
            query = query.where(or_(ended, JudgeCall.created_at >= failed_since))
        for call in session.execute(query.order_by(JudgeCall.attempt)).scalars():
            known = found.get(call.request_sha256)
            if known is None or _standing(call) >= _standing(known):
                found[call.request_sha256] = call
    return found


def _standing(call: JudgeCall) -> int:
    """Sort key of a request's calls: answers first, then final calls, then failures."""
    if call.status == "ok":
        return 2
    return int(call.status in ENDED_STATUSES)


def judge_parameters(session: Session, judge_id: int) -> dict[str, Any] | None:
    """The newest request parameters of the judge's server; None where unknown."""
    query = (
        select(JudgeParameters.parameters)
        .where(JudgeParameters.judge_id == judge_id)
        .order_by(JudgeParameters.id.desc())
        .limit(1)
    )
    found: dict[str, Any] | None = session.execute(query).scalar_one_or_none()
    return found


def add_judge_parameters(
    session: Session, judge_id: int, run_id: int, parameters: Mapping[str, Any]
) -> None:
    """Store request parameters, unless they are the newest already."""
    if judge_parameters(session, judge_id) != dict(parameters):
        session.add(JudgeParameters(judge_id=judge_id, run_id=run_id, parameters=dict(parameters)))
        session.flush()


def record_calls(session: Session, calls: Sequence[CallRow]) -> list[int]:
    """Write finished calls, in order, each under its request's next free attempt number.

    Returns their ids. Where two workers number the same request at once, the unique key makes the
    later one count again.
    """
    while True:
        numbered = _numbered(session, calls)
        try:
            with session.begin_nested():
                return list(
                    session.execute(
                        insert(JudgeCall).returning(JudgeCall.id, sort_by_parameter_order=True),
                        numbered,
                    ).scalars()
                )
        except IntegrityError:
            if _numbered(session, calls) == numbered:
                raise


def _numbered(session: Session, calls: Sequence[CallRow]) -> list[dict[str, Any]]:
    """The calls as rows with their attempt numbers."""
    last: dict[tuple[int, str, int], int] = {}
    for part in chunks({call.request_sha256 for call in calls}):
        rows = session.execute(
            select(
                JudgeCall.judge_id,
                JudgeCall.request_sha256,
                JudgeCall.sample,
                func.max(JudgeCall.attempt).label("attempt"),
            )
            .where(JudgeCall.request_sha256.in_(part))
            .group_by(JudgeCall.judge_id, JudgeCall.request_sha256, JudgeCall.sample)
        )
        last |= {(row.judge_id, row.request_sha256, row.sample): row.attempt for row in rows}
    values = []
    for call in calls:
        key = (call.judge_id, call.request_sha256, call.sample)
        last[key] = last.get(key, -1) + 1
        parsed = None if call.parsed is None else dict(call.parsed)
        options = None if call.options is None else list(call.options)
        row = {**call.__dict__, "parsed": parsed, "options": options}
        values.append({**row, "attempt": last[key]})
    return values


@dataclass(frozen=True)
class ExplanationRow:
    """A judge's explanation of a latent."""

    latent_id: int
    text: str
    judge_call_id: int | None = None
    interpretable: bool = True
    confidence: float | None = None
    is_control: bool = False


def add_explanation(
    session: Session,
    run_id: int,
    latent_id: int,
    judge_id: int,
    text: str,
    is_control: bool = False,
) -> Explanation:
    """Write one explanation; effective labels without one get it."""
    row = ExplanationRow(latent_id, text, is_control=is_control)
    (explanation_id,) = add_explanations(session, run_id, judge_id, [row])
    return session.get_one(Explanation, explanation_id)


def add_explanations(
    session: Session, run_id: int, judge_id: int, explanations: Sequence[ExplanationRow]
) -> list[int]:
    """Write explanations in order; returns their ids. Effective labels without one get it."""
    if not explanations:
        return []
    made = insert(Explanation).returning(Explanation.id, sort_by_parameter_order=True)
    rows = [
        {
            **vars(row),
            "run_id": run_id,
            "judge_id": judge_id,
            "confidence": number(row.confidence),
        }
        for row in explanations
    ]
    ids = list(session.execute(made, rows).scalars())
    latent_ids = {row.latent_id for row in explanations if not row.is_control}
    if latent_ids:
        refresh_effective(session, latent_ids=latent_ids)
    return ids


def lock_latents(session: Session, latent_ids: Collection[int]) -> None:
    """Serialise writers of explanations of the same latents (PostgreSQL)."""
    for part in chunks(sorted(set(latent_ids))):
        session.execute(
            select(Latent.id)
            .where(Latent.id.in_(part))
            .order_by(Latent.id)
            .with_for_update(key_share=True)
        ).all()


def add_judge_label(session: Session, label: LabelRow) -> JudgeLabel:
    """Write one label; see `add_judge_labels`."""
    return session.get_one(JudgeLabel, add_judge_labels(session, [label])[0])


def add_judge_labels(session: Session, labels: Iterable[LabelRow]) -> list[int]:
    """Write labels in order and refresh the effective labels; returns their ids.

    ValueError where there are categories without the outcome `assigned`, or the reverse.
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
    if label.outcome not in LABEL_OUTCOMES:
        raise ValueError(f"outcome {label.outcome!r} is not one of {', '.join(LABEL_OUTCOMES)}")
    if (label.outcome == "assigned") != bool(label.categories):
        raise ValueError(
            f"outcome {label.outcome!r} with {len(label.categories)} categories: only and always"
            " 'assigned' has categories"
        )
    values = {name: value for name, value in vars(label).items() if name != "categories"}
    values["confidence"] = number(label.confidence)
    values["is_control"] = label.is_control or on_control
    return JudgeLabel(**values)


def _category_rows(
    label_id: int, categories: Sequence[LabelCategory]
) -> Iterable[dict[str, object]]:
    for rank, category in enumerate(categories, start=1):
        yield {
            **vars(category),
            "judge_label_id": label_id,
            "rank": rank,
            "confidence": number(category.confidence),
        }


def newest_labels(
    session: Session, latent_ids: Iterable[int], judge_id: int, taxonomy_version_id: int
) -> dict[int, JudgeLabel]:
    """The newest label of each latent by a judge in a taxonomy version, controls left out."""
    found: dict[int, JudgeLabel] = {}
    for part in chunks(latent_ids):
        newest = (
            select(func.max(JudgeLabel.id))
            .where(
                JudgeLabel.latent_id.in_(part),
                JudgeLabel.judge_id == judge_id,
                JudgeLabel.taxonomy_version_id == taxonomy_version_id,
                JudgeLabel.is_control.is_(False),
            )
            .group_by(JudgeLabel.latent_id)
        )
        rows = session.execute(select(JudgeLabel).where(JudgeLabel.id.in_(newest))).scalars()
        found |= {row.latent_id: row for row in rows}
    return found


def newest_explanations(
    session: Session, latent_ids: Iterable[int], judge_id: int
) -> dict[int, Explanation]:
    """The newest explanation of each latent by a judge, controls left out."""
    return _newest(session, latent_ids, Explanation.judge_id == judge_id)


def explanations_for(
    session: Session, latent_ids: Iterable[int], judge_id: int
) -> dict[int, Explanation]:
    """The newest explanation of each latent by this judge, else the newest one that was imported.

    Controls are left out, and so are latents without either.
    """
    latents = list(latent_ids)
    own = newest_explanations(session, latents, judge_id)
    imports = select(Judge.id).where(Judge.is_import)
    others = [latent_id for latent_id in latents if latent_id not in own]
    return own | _newest(session, others, Explanation.judge_id.in_(imports))


def _newest(
    session: Session, latent_ids: Iterable[int], by: ColumnElement[bool]
) -> dict[int, Explanation]:
    found: dict[int, Explanation] = {}
    for part in chunks(latent_ids):
        newest = newest_explanation_ids(
            by, Explanation.latent_id.in_(part), Explanation.is_control.is_(False)
        )
        rows = session.execute(select(Explanation).where(Explanation.id.in_(newest))).scalars()
        found |= {row.latent_id: row for row in rows}
    return found


def no_explanation(outcome: str, error: str | None) -> str:
    """Text of the explanation for a request that was too long or refused."""
    return f"No explanation: {BY_NAME[outcome].short}: {error or 'no words'}"


def failed_explanations(session: Session, explanations: Iterable[Explanation]) -> dict[int, str]:
    """Outcome of each explanation that replaces a missing answer, by explanation id."""
    calls: dict[int, list[int]] = defaultdict(list)
    for row in explanations:
        if not row.interpretable and row.judge_call_id is not None:
            calls[row.judge_call_id].append(row.id)
    found: dict[int, str] = {}
    for part in chunks(calls):
        query = select(JudgeCall.id, JudgeCall.status).where(
            JudgeCall.id.in_(part), JudgeCall.status.in_(OF_ONE_REQUEST)
        )
        for call_id, status in session.execute(query):
            found |= dict.fromkeys(calls[call_id], failed_outcome(status))
    return found


def add_score(session: Session, score: ExplanationScore, call_ids: Collection[int]) -> bool:
    """Write a score with the calls it was counted from, unless the newest one is equal."""
    newest = session.execute(
        select(ExplanationScore)
        .where(
            ExplanationScore.explanation_id == score.explanation_id,
            ExplanationScore.judge_id == score.judge_id,
            ExplanationScore.method == score.method,
        )
        .order_by(ExplanationScore.id.desc())
        .limit(1)
    ).scalar_one_or_none()
    if newest is not None and _says(newest, score) and _calls_of(session, newest) == set(call_ids):
        return False
    session.add(score)
    session.flush()
    if call_ids:
        session.execute(
            insert(ScoreCall),
            [
                {"explanation_score_id": score.id, "judge_call_id": call_id}
                for call_id in sorted(set(call_ids))
            ],
        )
    return True


def shuffled_explanation(
    session: Session, run_id: int, latent_id: int, source: Explanation
) -> Explanation:
    """The control explanation with the text of `source` for another latent."""
    known = session.execute(
        select(Explanation)
        .join(ShuffledExplanation, ShuffledExplanation.explanation_id == Explanation.id)
        .where(
            Explanation.latent_id == latent_id,
            ShuffledExplanation.source_explanation_id == source.id,
        )
        .limit(1)
    ).scalar_one_or_none()
    if known is not None:
        return known
    row = add_explanation(session, run_id, latent_id, source.judge_id, source.text, is_control=True)
    session.add(ShuffledExplanation(explanation_id=row.id, source_explanation_id=source.id))
    session.flush()
    return row


def _says(newest: ExplanationScore, score: ExplanationScore) -> bool:
    """Whether two scores are equal apart from time and run."""
    columns = set(ExplanationScore.__table__.columns.keys()) - {"id", "run_id", "created_at"}
    return all(getattr(newest, name) == getattr(score, name) for name in columns)


def _calls_of(session: Session, score: ExplanationScore) -> set[int]:
    query = select(ScoreCall.judge_call_id).where(ScoreCall.explanation_score_id == score.id)
    return set(session.execute(query).scalars())
