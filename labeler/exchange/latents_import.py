"""Imports latents that were labelled elsewhere, from one file in one transaction."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.exchange.garbling import ComparedText, refuse_garbled, refuse_misread
from labeler.exchange.latents_csv import (
    ImportRow,
    PlacedLatents,
    ensure_imported_comparison,
    place_latents,
    read_rows,
)
from labeler.store.copy import count_values
from labeler.store.effective import refresh_effective
from labeler.store.engine import write_session
from labeler.store.judging import (
    LabelCategory,
    LabelRow,
    add_judge_labels,
    get_or_create_judge,
    newest_explanations,
)
from labeler.store.latents import current_setting, ensure_comparison_setting
from labeler.store.runs import begin_run, finish_run
from labeler.store.schema import (
    Category,
    Comparison,
    Explanation,
    JudgeLabel,
    JudgeLabelCategory,
    TaxonomyVersion,
)
from labeler.store.schema.judging import IMPORT
from labeler.store.statements import chunks
from labeler.store.taxonomies import (
    add_categories,
    category_ids,
    current_version,
    load_version,
    missing_category_hint,
)
from labeler.store.taxonomy_moves import move_comparison
from taxonomy.errors import InputError
from taxonomy.tree import Taxonomy


@dataclass(frozen=True)
class Key:
    """Latent and judge of a label."""

    latent_id: int
    judge_id: int


@dataclass(frozen=True)
class Content:
    """Content of a label, as in a row of the file."""

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
    """Write every new or changed label; returns the number of rows written.

    The effective labels of changed and newly placed latents are refreshed.

    UsageError for an empty category where the judge has labelled the latent, and for an explanation
    that equals the earlier one in a wrong encoding.
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
    """Explanation id of each new row; an equal newest explanation is used again."""
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


@dataclass(frozen=True)
class ImportResult:
    """What an import did, or with `dry_run` would have done."""

    n_rows: int
    n_new_latents: int
    """Latents added to a side of a comparison."""
    n_new_labels: int
    n_unchanged: int
    """Rows that the database already holds."""
    n_unlabelled: int
    """Rows without a category."""
    created_categories: tuple[str, ...]
    taxonomy_version: str
    dry_run: bool
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""

    def summary(self) -> str:
        """The result in words."""
        verb = "would add" if self.dry_run else "added"
        parts = [
            f"{self.n_rows} rows: {verb} {self.n_new_latents} latents and"
            f" {self.n_new_labels} labels; {self.n_unchanged} unchanged,"
            f" {self.n_unlabelled} without a category (taxonomy {self.taxonomy_version})"
        ]
        if self.created_categories:
            parts.append(f"new categories: {', '.join(self.created_categories)}")
        return "\n".join([*parts, *self.notes])


def import_latents(
    engine: Engine,
    path: str | Path,
    taxonomy: Taxonomy,
    dry_run: bool = False,
    create_categories: bool = False,
    as_written: bool = False,
) -> ImportResult:
    """Import a file: everything in it, or nothing on any mistake.

    UsageError names the row and the fix. It is raised as well where all explanations look garbled,
    unless `as_written`. With `dry_run` everything is rolled back.
    """
    source = Path(path)
    rows = read_rows(source)
    if not as_written:
        texts = ((row.number, row.explanation or "") for row in rows)
        refuse_misread(source, texts, "--as-written")
    with write_session(engine, dry_run=dry_run) as session:
        result = _Import(session, source, rows).run(taxonomy, create_categories)
        if not dry_run:
            count_values(session.connection())
    return replace(result, dry_run=dry_run)


@dataclass
class _Import:
    """One import in one transaction; a run is recorded only if something changes."""

    session: Session
    source: Path
    rows: Sequence[ImportRow]
    _run_id: int | None = field(default=None, init=False)

    def run(self, taxonomy: Taxonomy, create_categories: bool) -> ImportResult:
        """Place the latents, then write the labels that are new."""
        version, created = self._version(taxonomy, create_categories)
        comparisons = {
            name: ensure_imported_comparison(self.session, name, self.run_id)
            for name in dict.fromkeys(row.comparison for row in self.rows)
        }
        judges = {
            name: get_or_create_judge(self.session, name, name, IMPORT).id
            for name in dict.fromkeys(row.judge for row in self.rows)
        }
        notes = self._settings(comparisons, version, judges)
        placed = place_latents(self.session, self.source, self.rows, comparisons)
        if placed.new_members:
            self.run_id()
        n_labels = write_labels(
            self.session, self.source, self.rows, version.id, placed, judges, self.run_id
        )
        if self._run_id is not None:
            finish_run(self.session, self._run_id)
        n_unlabelled = sum(row.category is None for row in self.rows)
        return ImportResult(
            n_rows=len(self.rows),
            n_new_latents=len(placed.new_members),
            n_new_labels=n_labels,
            n_unchanged=len(self.rows) - n_unlabelled - n_labels,
            n_unlabelled=n_unlabelled,
            created_categories=created,
            taxonomy_version=f"{version.name} {version.version}",
            dry_run=False,
            notes=notes,
        )

    def run_id(self) -> int:
        """Id of this import's run, which begins at the first change."""
        if self._run_id is None:
            content = self.source.read_bytes()
            self._run_id = begin_run(
                self.session,
                "import",
                {"file": self.source.name, "sha256": hashlib.sha256(content).hexdigest()},
            )
        return self._run_id

    def _version(
        self, taxonomy: Taxonomy, create_categories: bool
    ) -> tuple[TaxonomyVersion, tuple[str, ...]]:
        version = current_version(self.session, taxonomy)
        present = load_version(self.session, version.id)
        unknown = {
            row.slug: row.number
            for row in reversed(self.rows)
            if row.slug is not None and row.slug not in present.slugs
        }
        if not unknown:
            return version, ()
        if not create_categories:
            slug, number = min(unknown.items(), key=lambda item: item[1])
            raise UsageError(
                f"{self.source}: row {number}: category {slug!r} is not in taxonomy"
                f" {present.name} {present.version};"
                f" {missing_category_hint(self.session, version.id, slug)}"
                " (--create-categories would add it)"
            )
        created = tuple(sorted(unknown, key=lambda slug: unknown[slug]))
        for slug in created:
            try:
                present = present.with_added([slug], version=present.version)
            except InputError as error:
                raise UsageError(f"{self.source}: row {unknown[slug]}: {error}") from None
        return add_categories(self.session, version, created), created

    def _settings(
        self,
        comparisons: Mapping[str, Comparison],
        version: TaxonomyVersion,
        judges: Mapping[str, int],
    ) -> tuple[str, ...]:
        """Make the version active; in a new comparison also the judge of most rows."""
        notes: list[str] = []
        for name, comparison in comparisons.items():
            used = Counter(
                row.judge for row in self.rows if row.comparison == name and row.category
            )
            judge = used.most_common(1)[0][0] if used else self._any_judge(name)
            setting = current_setting(self.session, comparison.id)
            if setting is None:
                ensure_comparison_setting(self.session, comparison.id, version.id, judges[judge])
                active_judge = judges[judge]
            else:
                move_comparison(self.session, comparison.id, version.id)
                active_judge = setting.judge_id
            others = sum(n for label, n in used.items() if judges[label] != active_judge)
            if others:
                notes.append(
                    f"{name}: {others} rows are labels of a judge that is not active; they are"
                    " in v_judge_label only"
                )
        return tuple(notes)

    def _any_judge(self, comparison: str) -> str:
        return next(row.judge for row in self.rows if row.comparison == comparison)
