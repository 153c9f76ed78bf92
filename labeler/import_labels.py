"""Writes the labels of imported rows that differ from what the database holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.explanations import newest_explanations
from labeler.garbled_rows import ComparedText, refuse_garbled
from labeler.import_places import PlacedLatents
from labeler.import_rows import ImportRow
from labeler.store.effective import refresh_effective
from labeler.store.helpers import chunks
from labeler.store.judging_records import LabelCategory, LabelRow, add_judge_labels
from labeler.store.schema import Category, Explanation, JudgeLabel, JudgeLabelCategory
from labeler.store.taxonomies import category_ids


@dataclass(frozen=True)
class Key:
    """Whose label of which latent."""

    latent_id: int
    judge_id: int


@dataclass(frozen=True)
class Content:
    """What a label says, as a row would give it."""

    explanation: str | None
    category: str | None
    confidence: float | None


def write_labels(
    session: Session,
    source: Path,
    rows: Sequence[ImportRow],
    taxonomy_version_id: int,
    placed: PlacedLatents,
    judge_ids: Mapping[str, int],
    run_id: Callable[[], int],
) -> int:
    """Write every label that is new or changed; returns how many rows that were.

    The effective labels of what changed, and of the latents newly placed, are refreshed.

    UsageError for an empty category where the judge labelled the latent before, and for an
    explanation that is the one before in a wrong encoding.
    """
    keys = [Key(placed.latent_ids[row.latent], judge_ids[row.judge]) for row in rows]
    known = _newest_labels(session, taxonomy_version_id, keys)
    wordings = _newest_explanations(session, keys)
    compared = [
        ComparedText(row.number, wordings[key].text, row.explanation)
        for row, key in zip(rows, keys, strict=True)
        if row.explanation and key in wordings
    ]
    refuse_garbled(source, compared, all_changed=True)
    fresh: dict[Key, ImportRow] = {}
    n_rows = 0
    for row, key in zip(rows, keys, strict=True):
        before = known.get(key)
        if row.category is None:
            _refuse_blanking(source, row, before)
            if row.explanation is not None:
                fresh.setdefault(key, row)
        elif before != Content(row.explanation, row.category, row.confidence):
            fresh.setdefault(key, row)
            n_rows += 1
    explanation_ids = _write_explanations(session, fresh, wordings, run_id)
    slugs = category_ids(session, taxonomy_version_id)
    labels = [
        LabelRow(
            run_id=run_id(),
            latent_id=key.latent_id,
            judge_id=key.judge_id,
            taxonomy_version_id=taxonomy_version_id,
            outcome=row.outcome,
            categories=_categories(row, slugs),
            explanation_id=explanation_ids.get(key),
            confidence=row.confidence,
        )
        for key, row in fresh.items()
        if row.category is not None
    ]
    if labels:
        add_judge_labels(session, labels)
    labelled = {label.latent_id for label in labels}
    others = {key.latent_id for key in fresh} | set(placed.new_members)
    refresh_effective(session, latent_ids=others - labelled)
    return n_rows


def _refuse_blanking(source: Path, row: ImportRow, before: Content | None) -> None:
    if before is not None:
        raise UsageError(
            f"{source}: row {row.number}: {row.judge!r} labelled this latent {before.category!r}"
            " before, and an empty category does not take that back; repeat the category, or"
            " write none or uninterpretable"
        )


def _categories(row: ImportRow, slugs: Mapping[str, int]) -> tuple[LabelCategory, ...]:
    return () if row.slug is None else (LabelCategory(slugs[row.slug], row.confidence),)


def _write_explanations(
    session: Session,
    fresh: Mapping[Key, ImportRow],
    wordings: Mapping[Key, Explanation],
    run_id: Callable[[], int],
) -> dict[Key, int]:
    """The explanation of each fresh row: the newest one where its text is the same."""
    ids: dict[Key, int] = {}
    added: dict[Key, Explanation] = {}
    for key, row in fresh.items():
        newest = wordings.get(key)
        if row.explanation is None:
            continue
        if newest is not None and newest.text == row.explanation:
            ids[key] = newest.id
            continue
        added[key] = Explanation(
            run_id=run_id(),
            latent_id=key.latent_id,
            judge_id=key.judge_id,
            text=row.explanation,
            confidence=row.confidence,
            interpretable=row.category != "uninterpretable",
        )
    session.add_all(added.values())
    session.flush()
    return ids | {key: explanation.id for key, explanation in added.items()}


def _newest_labels(
    session: Session, taxonomy_version_id: int, keys: Collection[Key]
) -> dict[Key, Content]:
    judges = {key.judge_id for key in keys}
    newest: dict[Key, Content] = {}
    for part in chunks({key.latent_id for key in keys}):
        rows = session.execute(
            select(
                JudgeLabel.latent_id,
                JudgeLabel.judge_id,
                JudgeLabel.outcome,
                JudgeLabel.confidence,
                Explanation.text,
                Category.slug,
            )
            .outerjoin(Explanation, Explanation.id == JudgeLabel.explanation_id)
            .outerjoin(
                JudgeLabelCategory,
                (JudgeLabelCategory.judge_label_id == JudgeLabel.id)
                & (JudgeLabelCategory.rank == 1),
            )
            .outerjoin(Category, Category.id == JudgeLabelCategory.category_id)
            .where(
                JudgeLabel.latent_id.in_(part),
                JudgeLabel.judge_id.in_(judges),
                JudgeLabel.taxonomy_version_id == taxonomy_version_id,
                JudgeLabel.is_control.is_(False),
            )
            .order_by(JudgeLabel.id)
        )
        for row in rows:
            newest[Key(row.latent_id, row.judge_id)] = Content(
                row.text, row.slug or row.outcome, row.confidence
            )
    return newest


def _newest_explanations(session: Session, keys: Collection[Key]) -> dict[Key, Explanation]:
    latents: dict[int, list[int]] = defaultdict(list)
    for key in keys:
        latents[key.judge_id].append(key.latent_id)
    return {
        Key(latent_id, judge_id): row
        for judge_id, latent_ids in latents.items()
        for latent_id, row in newest_explanations(session, latent_ids, judge_id).items()
    }
