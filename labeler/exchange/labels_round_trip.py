"""Exports labels for editing in a spreadsheet, and imports the edited file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sqlalchemy import Engine, func, select, text
from sqlalchemy.orm import Session

from labeler.errors import UsageError, WorkError
from labeler.exchange.garbling import ComparedText, refuse_garbled
from labeler.exchange.labels_csv import (
    RESERVED,
    SEPARATOR,
    EditedRow,
    ExportRow,
    LabelContent,
    LatentKey,
    RowMistakes,
    by_slug,
    read_edited,
    slugs_of,
    write_rows,
)
from labeler.store.engine import read_session, write_session
from labeler.store.reviews import Decision, record_decisions, stream_revision
from labeler.store.schema import EffectiveLabel, ReviewEvent
from labeler.store.taxonomies import load_version, missing_category_hint
from labeler.text import plural
from taxonomy.tree import Taxonomy


@dataclass(frozen=True)
class LabelImportResult:
    """What an import of labels did, or with `dry_run` would have done."""

    n_rows: int
    n_decisions: int
    n_unchanged: int
    dry_run: bool

    def summary(self) -> str:
        """The result in words."""
        verb = "would write" if self.dry_run else "wrote"
        written = f"{verb} {plural(self.n_decisions, 'decision')}"
        return f"{plural(self.n_rows, 'row')}: {written}; {self.n_unchanged} unchanged"


@dataclass(frozen=True)
class _Current:
    """The active label of one latent, with the data that a decision on it needs."""

    row: ExportRow
    latent_id: int
    taxonomy_version_id: int | None
    judge_label_id: int | None
    has_own_text: bool
    """Whether a reviewer wrote the explanation."""


def export_labels(engine: Engine, path: str | Path, overwrite: bool = False) -> int:
    """Write every active label to a CSV or JSONL file; returns how many.

    UsageError where the file is there already, perhaps edited, unless `overwrite`.
    """
    if not overwrite and Path(path).is_file():
        raise UsageError(
            f"{path}: is there already, perhaps with edits; import it, choose another name, or"
            " overwrite it by --force"
        )
    with read_session(engine) as session:
        rows = [current.row for current in _current_labels(session).values()]
    return write_rows(Path(path), rows)


def import_labels(
    engine: Engine,
    path: str | Path,
    reviewer: str,
    dry_run: bool = False,
    all_changed: bool = False,
) -> LabelImportResult:
    """Write the edited rows of a file as decisions of `reviewer`: all of them, or none.

    A row is edited where its category or explanation differs from the export by more than outer
    space, line ends or Unicode's normal form. A latent of several comparisons has a row in each; an
    edit of one applies to all. WorkError lists every edited row whose label has changed since.
    UsageError names invalid rows, the first row with text in a wrong encoding, and, unless
    `all_changed`, a file in which nearly every explanation differs.
    """
    source = Path(path)
    rows = read_edited(source)
    with write_session(engine, dry_run=dry_run) as session:
        current = _current_labels(session)
        refuse_garbled(source, _compared(rows, current), all_changed)
        decisions = _decisions(session, source, rows, reviewer, current)
        record_decisions(session, decisions, are_one_act=False)
    return LabelImportResult(len(rows), len(decisions), len(rows) - len(decisions), dry_run)


def _compared(
    rows: Sequence[EditedRow], current: Mapping[LatentKey, _Current]
) -> list[ComparedText]:
    """Each row's text next to the label's, for rows of known latents."""
    return [
        ComparedText(row.number, now.row.content.explanation, row.content.explanation, row.note)
        for row in rows
        if (now := current.get(row.key)) is not None
    ]


def _decisions(
    session: Session,
    source: Path,
    rows: Sequence[EditedRow],
    reviewer: str,
    current: Mapping[LatentKey, _Current],
) -> list[Decision]:
    edited: dict[int, EditedRow] = {}
    untouched: dict[LatentKey, EditedRow] = {}
    conflicts: list[str] = []
    mistakes = RowMistakes(source)
    versions = {each.taxonomy_version_id for each in current.values()} - {None}
    taxonomies = {key: load_version(session, key) for key in versions if key is not None}
    for row in rows:
        with mistakes.gathered():
            now = _current_of(source, row, current)
            row = _with_slugs(source, row, taxonomies.get(now.taxonomy_version_id or 0))
            if row.content.base == row.base or row.content.says_the_same(now.row.content):
                untouched.setdefault(row.key, row)
                continue
            if _is_stale(row, now.row):
                conflicts.append(_conflict(row, now.row))
            first = edited.setdefault(now.latent_id, row)
            _check_edit(session, source, row, first, now, taxonomies)
    for row in edited.values():
        with mistakes.gathered():
            _refuse_unedited_duplicate(source, row, untouched.get(row.key))
    mistakes.require_none()
    if conflicts:
        raise WorkError(
            f"{source}: nothing imported, {plural(len(conflicts), 'label')} changed since the"
            " export; export again and repeat these:\n" + "\n".join(conflicts)
        )
    return [_decision(session, row, current[row.key], reviewer) for row in edited.values()]


def _current_of(source: Path, row: EditedRow, current: Mapping[LatentKey, _Current]) -> _Current:
    now = current.get(row.key)
    if now is None:
        raise UsageError(
            f"{source}: row {row.number}: {row.key} is not on the {row.key.side} side of"
            f" {row.key.comparison}; leave the key columns as they were exported"
        )
    return now


def _with_slugs(source: Path, row: EditedRow, taxonomy: Taxonomy | None) -> EditedRow:
    """The row with slugs instead of titles."""
    if taxonomy is None or not row.content.category:
        return row
    try:
        category = by_slug(row.content.category, taxonomy)
    except UsageError as error:
        raise UsageError(f"{source}: row {row.number}: {error}") from None
    return replace(row, content=replace(row.content, category=category))


def _refuse_unedited_duplicate(source: Path, row: EditedRow, other: EditedRow | None) -> None:
    if other is not None:
        raise UsageError(
            f"{source}: rows {row.number} and {other.number} differ on {row.key}, and row"
            f" {other.number} is as it was; make them equal, or remove one"
        )


def _check_edit(
    session: Session,
    source: Path,
    row: EditedRow,
    first: EditedRow,
    now: _Current,
    taxonomies: Mapping[int, Taxonomy],
) -> None:
    """UsageError where a row cannot become a decision; `first` is the first row on its latent."""
    where = f"{source}: row {row.number}"
    if first.content != row.content:
        raise UsageError(
            f"{source}: rows {first.number} and {row.number} decide differently on {row.key};"
            " make them equal"
        )
    if now.taxonomy_version_id is None:
        raise UsageError(
            f"{where}: {row.key.comparison} has no taxonomy yet; run `difflens categorize` first"
        )
    if not row.content.category:
        raise UsageError(f"{where}: category is empty; write a slug, none or uninterpretable")
    if not row.content.explanation and now.row.content.explanation:
        raise UsageError(
            f"{where}: explanation is empty; put its words back, and where none would do, write"
            " uninterpretable as the category"
        )
    taxonomy = taxonomies[now.taxonomy_version_id]
    for slug in slugs_of(row.content.category):
        if slug not in taxonomy:
            raise UsageError(
                f"{where}: category {slug!r} is not in taxonomy {taxonomy.name}"
                f" {taxonomy.version};"
                f" {missing_category_hint(session, now.taxonomy_version_id, slug)}"
            )


def _is_stale(row: EditedRow, now: ExportRow) -> bool:
    if row.base_revision != now.base_revision:
        return True
    return row.base is not None and row.base != now.content.base


def _conflict(row: EditedRow, now: ExportRow) -> str:
    return (
        f"row {row.number}: {row.key} says {row.content.category!r} on revision"
        f" {row.base_revision}, but is {now.content.category!r} by {now.decided_by} on revision"
        f" {now.base_revision}"
    )


def _decision(session: Session, row: EditedRow, current: _Current, reviewer: str) -> Decision:
    version_id = current.taxonomy_version_id
    assert version_id is not None
    slugs = slugs_of(row.content.category)
    as_it_was = replace(current.row.content, category=row.content.category)
    rewords = current.has_own_text or not row.content.says_the_same(as_it_was)
    return Decision(
        latent_id=current.latent_id,
        taxonomy_version_id=version_id,
        reviewer=reviewer,
        base_revision=stream_revision(session, current.latent_id, version_id, reviewer),
        action="set" if slugs else row.content.category,
        categories=slugs,
        explanation_text=row.content.explanation if rewords else None,
        based_on_judge_label_id=current.judge_label_id,
        note=row.note,
    )


_LABELS = """
SELECT v.comparison, v.side, v.crosscoder, v.latent_index, v.latent_id, v.explanation, v.category,
       v.outcome, v.rank, v.confidence, v.source, coalesce(v.reviewer, v.judge) AS decided_by,
       v.strength_shift,
       e.taxonomy_version_id, e.judge_label_id, d.explanation_text
FROM v_effective_label AS v
JOIN comparison AS c ON c.name = v.comparison
JOIN effective_label AS e
  ON e.comparison_id = c.id AND e.side = v.side AND e.latent_id = v.latent_id
LEFT JOIN review_event AS d ON d.id = e.review_event_id
WHERE c.id NOT IN (SELECT comparison_id FROM comparison_seed)
ORDER BY v.comparison, v.side DESC, v.crosscoder, v.latent_index, v.rank
"""


def _current_labels(session: Session) -> dict[LatentKey, _Current]:
    revisions = _revisions(session)
    labels: dict[LatentKey, _Current] = {}
    for row in session.execute(text(_LABELS)):
        key = LatentKey(row.comparison, row.side, row.crosscoder, row.latent_index)
        category = row.category or (row.outcome if row.outcome in RESERVED else "")
        if key in labels:
            category = f"{labels[key].row.content.category}{SEPARATOR}{category}"
        first = labels.get(key)
        labels[key] = _Current(
            row=ExportRow(
                key=key,
                content=LabelContent(category, row.explanation or ""),
                confidence=first.row.confidence if first else row.confidence,
                source=row.source,
                decided_by=row.decided_by,
                base_revision=revisions.get(_Stream(row.latent_id, row.taxonomy_version_id), 0),
                strength_shift=row.strength_shift,
            ),
            latent_id=row.latent_id,
            taxonomy_version_id=row.taxonomy_version_id,
            judge_label_id=row.judge_label_id,
            has_own_text=row.explanation_text is not None,
        )
    return labels


@dataclass(frozen=True)
class _Stream:
    """A latent under a taxonomy version."""

    latent_id: int
    taxonomy_version_id: int | None


def _revisions(session: Session) -> Mapping[_Stream, int]:
    """Number of decisions on each latent by all reviewers."""
    rows = session.execute(
        select(
            ReviewEvent.latent_id,
            ReviewEvent.taxonomy_version_id,
            func.count().label("n"),
        )
        .where(ReviewEvent.latent_id.in_(select(EffectiveLabel.latent_id)))
        .group_by(ReviewEvent.latent_id, ReviewEvent.taxonomy_version_id)
    )
    return {_Stream(row.latent_id, row.taxonomy_version_id): row.n for row in rows}
