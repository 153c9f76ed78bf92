"""Imports latents that were labelled elsewhere, from one file in one transaction."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.garbled_rows import refuse_misread
from labeler.import_labels import write_labels
from labeler.import_places import ensure_imported_comparison, place_latents
from labeler.import_rows import ImportRow, read_rows
from labeler.store.bulk import count_values
from labeler.store.engine import write_session
from labeler.store.judging_records import get_or_create_judge
from labeler.store.latent_records import current_setting, ensure_comparison_setting
from labeler.store.renamed import missing_category_hint
from labeler.store.runs import begin_run, finish_run
from labeler.store.schema import Comparison, TaxonomyVersion
from labeler.store.taxonomies import add_categories, current_version, load_version
from labeler.store.taxonomy_moves import move_comparison
from taxonomy.errors import InputError
from taxonomy.tree import Taxonomy


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
    """What the reader should know, one sentence each."""

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
    """Import a file: everything in it, or on any mistake nothing.

    UsageError names the row and the mend; also for explanations that all look garbled, unless
    `as_written`. With `dry_run` the same is done and undone.
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
    """One import in one transaction; its run is recorded only if something changes."""

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
            name: get_or_create_judge(self.session, name, name, "import").id
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
        """The run of this import, begun when it is first needed."""
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
        """Put the version, and in a new comparison the file's main judge, in force."""
        notes: list[str] = []
        for name, comparison in comparisons.items():
            used = Counter(
                row.judge for row in self.rows if row.comparison == name and row.category
            )
            judge = used.most_common(1)[0][0] if used else self._any_judge(name)
            setting = current_setting(self.session, comparison.id)
            if setting is None:
                ensure_comparison_setting(self.session, comparison.id, version.id, judges[judge])
                in_force = judges[judge]
            else:
                move_comparison(self.session, comparison.id, version.id)
                in_force = setting.judge_id
            others = sum(n for label, n in used.items() if judges[label] != in_force)
            if others:
                notes.append(
                    f"{name}: {others} rows are labels of a judge that is not in force; they are"
                    " in v_judge_label only"
                )
        return tuple(notes)

    def _any_judge(self, comparison: str) -> str:
        return next(row.judge for row in self.rows if row.comparison == comparison)
