"""Decisions on a taxonomy: accept a proposal; rename, merge, split and restore categories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, func, select
from sqlalchemy.orm import Session, aliased

from labeler.errors import UsageError
from labeler.store.engine import write_session
from labeler.store.latents import current_setting
from labeler.store.outcomes import ANSWERS
from labeler.store.runs import begin_run, finish_run
from labeler.store.schema import (
    Category,
    CategoryMapping,
    Comparison,
    EffectiveLabel,
    ReviewEvent,
    TaxonomyVersion,
)
from labeler.store.taxonomies import (
    ACCEPTED_NOTE,
    INDUCED_NOTE,
    ensure_taxonomy_version,
    line_between,
    load_version,
    missing_category_hint,
    record_mappings,
    renames_since,
    same_slugs,
)
from labeler.store.taxonomy_moves import carry_back, members_of, move_comparison
from labeler.study.study_file import StudyFile, load_proposal
from labeler.taxonomies.showing import UNREAD, named_version, study_version
from labeler.text import plural
from taxonomy import edits
from taxonomy.edits import CategoryEdit, Edit, changes_between
from taxonomy.errors import InputError
from taxonomy.proposal import Proposal
from taxonomy.tree import Taxonomy, next_version


@dataclass(frozen=True)
class Decided:
    """Result of a decision; nothing was done where `changed` is False."""

    changed: bool
    version: str
    changes: tuple[CategoryEdit, ...] = ()
    added: tuple[str, ...] = ()
    n_kept: int = 0
    """Latents whose label or decision is active under the new version too."""
    n_back: int = 0
    """Latents that go back to the judge and to review."""
    n_undecided: int = 0
    """Latents that lose a reviewer's decision because its category is gone."""

    def summary(self) -> str:
        """The result in words."""
        if not self.changed:
            return f"nothing to do: {self.version} is active already"
        words = [f"{self.version} is active"]
        told = [change for change in self.changes if change.kind != "same"]
        words += [f"{change.slug} {_became(change)}" for change in told]
        if self.added:
            words.append(f"new: {', '.join(self.added)}")
        if self.n_kept or self.n_back:
            back = f"{self.n_back} {'goes' if self.n_back == 1 else 'go'} back"
            words.append(f"{plural(self.n_kept, 'label')} kept, {back} to judge and review")
        if self.n_undecided:
            lost = plural(self.n_undecided, "decision")
            words.append(f"{lost} of people for categories that are gone: decide there again")
        return "; ".join(words)


def accept(engine: Engine, study: StudyFile, path: Path, unread: bool = False) -> Decided:
    """Replace the active version by a proposal that follows it.

    UsageError where the proposal follows another version, or none although the study has a fixed
    taxonomy.
    """
    return accept_proposal(engine, study, load_proposal(path), path.name, unread)


def accept_proposal(
    engine: Engine, study: StudyFile, proposal: Proposal, source: str, unread: bool = False
) -> Decided:
    """Accept a proposal that is already read; `source` names it in the version's note."""
    end = UNREAD if unread else ""
    with write_session(engine) as session:
        if proposal.based_on is None:
            return _begin(session, study, proposal, f"{INDUCED_NOTE}{source}{end}", source)
        version = required_version(session, study)
        tree = load_version(session, version.id)
        if content_of(proposal.taxonomy) == content_of(tree):
            if proposal.based_on.sha256 == version.sha256:
                _refuse_unmade_changes(proposal, tree, source)
            return Decided(False, _title(version))
        if proposal.based_on.sha256 != version.sha256:
            raise UsageError(
                f"{source}: follows {proposal.based_on.name} {proposal.based_on.version}, and "
                f"{_title(version)} is active; write a new one by `difflens taxonomy show "
                "--format yaml` or `propose`, and carry your edits over"
            )
        if proposal.taxonomy.version == tree.version:
            raised = proposal.taxonomy.model_copy(update={"version": next_version(tree.version)})
            proposal = proposal.model_copy(update={"taxonomy": raised})
        edit = proposal.edit_of(tree)
        return apply_edit(
            session, version, edit, f"{ACCEPTED_NOTE}{source}{end}", {"accept": source}
        )


def _refuse_unmade_changes(proposal: Proposal, tree: Taxonomy, source: str) -> None:
    """UsageError where `changes` names a change that `categories` does not make."""
    try:
        proposal.edit_of(tree)
    except InputError as error:
        raise UsageError(f"{source}: {error}") from None
    if proposal.changes:
        first = proposal.changes[0]
        raise UsageError(
            f"{source}: changes: {first.kind} of {', '.join(first.sources)}: `categories` is as it"
            " was; change it too, or take the line out"
        )


def rename(
    engine: Engine, study: StudyFile, slug: str, new_slug: str, name: str | None = None
) -> Decided:
    """Give a category a new slug or title."""

    def is_done(session: Session, tree: Taxonomy) -> bool:
        return slug not in tree and _became_before(session, slug, new_slug, tree)

    return _decide(
        engine, study, f"rename {slug} {new_slug}", [slug], is_done,
        lambda tree: edits.rename(tree, slug, new_slug, name),
    )  # fmt: skip


def merge(engine: Engine, study: StudyFile, slugs: Sequence[str], into: str) -> Decided:
    """Merge several categories into one."""

    def is_done(session: Session, tree: Taxonomy) -> bool:
        gone = [slug for slug in slugs if slug != into]
        return bool(gone) and all(
            slug not in tree and _became_before(session, slug, into, tree) for slug in gone
        )

    def merge_checked(tree: Taxonomy) -> Edit:
        if into in tree and into not in slugs:
            raise InputError(
                f"{into!r} is a category already and none of those to be merged; name it among"
                " them too, or choose a new slug"
            )
        return edits.merge(tree, slugs, into)

    return _decide(
        engine, study, f"merge {' '.join(slugs)} into {into}", slugs, is_done, merge_checked
    )  # fmt: skip


def split(engine: Engine, study: StudyFile, slug: str, into: Sequence[str]) -> Decided:
    """Replace one category by several."""

    def is_done(session: Session, tree: Taxonomy) -> bool:
        return all(
            part in tree and _became_before(session, slug, part, tree, ("split",)) for part in into
        )

    return _decide(
        engine, study, f"split {slug} into {' '.join(into)}", [slug], is_done,
        lambda tree: edits.split(tree, slug, into),
    )  # fmt: skip


def _decide(
    engine: Engine,
    study: StudyFile,
    words: str,
    named: Sequence[str],
    is_done: Callable[[Session, Taxonomy], bool],
    make: Callable[[Taxonomy], Edit],
) -> Decided:
    with write_session(engine) as session:
        version = required_version(session, study)
        tree = load_version(session, version.id)
        if is_done(session, tree):
            return Decided(False, _title(version))
        for slug in named:
            if slug not in tree:
                raise UsageError(
                    f"taxonomy {words.split()[0]}: {_title(version)} has no category {slug!r};"
                    f" {missing_category_hint(session, version.id, slug)}"
                )
        try:
            edit = make(tree)
        except InputError as error:
            raise UsageError(f"taxonomy {words.split()[0]}: {error}") from None
        return apply_edit(session, version, edit, f"{ACCEPTED_NOTE}{words}", {"edit": words})


def required_version(session: Session, study: StudyFile) -> TaxonomyVersion:
    """The active version; UsageError where none is induced yet."""
    version = study_version(session, study)
    if version is None:
        raise UsageError(
            "taxonomy.mode: induce, and nothing is induced yet; "
            f"`difflens taxonomy propose {study.path.name}` makes a proposal"
        )
    return version


def _begin(
    session: Session, study: StudyFile, proposal: Proposal, note: str, source: str
) -> Decided:
    """Accept a taxonomy that follows no other."""
    if study.config.taxonomy.mode != "induce":
        raise UsageError(
            f'{source}: follows no version; to use it set taxonomy.mode = "induce", or name the '
            "file by taxonomy.file"
        )
    known = study_version(session, study)
    if known is not None and known.sha256 == proposal.taxonomy.sha256():
        return Decided(False, _title(known))
    version = ensure_taxonomy_version(session, proposal.taxonomy)
    if not version.frozen:
        version.note = note
    run_id = begin_run(session, "taxonomy", {"accept": source, "sha256": version.sha256})
    finish_run(session, run_id, result={"version": _title(version)})
    return Decided(True, _title(version), added=proposal.taxonomy.slugs)


def apply_edit(
    session: Session,
    version: TaxonomyVersion,
    edit: Edit,
    note: str,
    config: dict[str, Any],
    before_moving: Callable[[TaxonomyVersion, int], None] | None = None,
) -> Decided:
    """Store the new version with its mappings, and move every comparison to it.

    `before_moving` is called with the new version and each comparison's id; labels that it carries
    are kept.
    """
    new = ensure_taxonomy_version(session, edit.taxonomy, parent_version_id=version.id)
    if not new.frozen:
        new.note = note
        session.flush()
    record_mappings(session, version.id, new.id, edit)
    moved = [
        comparison_id
        for comparison_id in session.execute(
            select(Comparison.id).order_by(Comparison.id)
        ).scalars()
        if (setting := current_setting(session, comparison_id)) is not None
        and setting.taxonomy_version_id == version.id
    ]
    before, decided = _n_labelled(session, moved), _decided(session, moved)
    for comparison_id in moved:
        if before_moving is not None:
            before_moving(new, comparison_id)
        move_comparison(session, comparison_id, new.id)
    after, lost = _n_labelled(session, moved), decided - _decided(session, moved)
    run_id = begin_run(session, "taxonomy", {**config, "from": version.sha256, "to": new.sha256})
    finish_run(session, run_id, result={"version": _title(new), "kept": after, "before": before})
    return Decided(True, _title(new), edit.changes, edit.added, after, before - after, len(lost))


def _n_labelled(session: Session, comparison_ids: Sequence[int]) -> int:
    query = select(func.count()).where(
        EffectiveLabel.comparison_id.in_(comparison_ids), EffectiveLabel.outcome.in_(ANSWERS)
    )
    return int(session.execute(query).scalar_one())


def _decided(session: Session, comparison_ids: Sequence[int]) -> set[tuple[int, int]]:
    """(comparison, latent) of every active decision of a reviewer."""
    query = select(EffectiveLabel.comparison_id, EffectiveLabel.latent_id).where(
        EffectiveLabel.comparison_id.in_(comparison_ids), EffectiveLabel.source == "human"
    )
    return {(row.comparison_id, row.latent_id) for row in session.execute(query)}


def _became_before(
    session: Session,
    slug: str,
    into: str,
    tree: Taxonomy,
    kinds: Sequence[str] = ("renamed", "merged"),
) -> bool:
    """Whether an earlier decision turned `slug` into `into`, which still exists."""
    old, new = aliased(Category), aliased(Category)
    query = (
        select(CategoryMapping.id)
        .join(old, old.id == CategoryMapping.from_category_id)
        .join(new, new.id == CategoryMapping.to_category_id)
        .where(old.slug == slug, new.slug == into, CategoryMapping.kind.in_(kinds))
        .limit(1)
    )
    return into in tree and session.execute(query).first() is not None


def content_of(taxonomy: Taxonomy) -> str:
    """Hash of everything but the version's label."""
    return taxonomy.model_copy(update={"version": "-"}).sha256()


def _title(version: TaxonomyVersion) -> str:
    return f"{version.name} {version.version}"


def _became(change: CategoryEdit) -> str:
    if change.kind == "renamed" and change.to == (change.slug,):
        return "has another title"
    if change.kind == "merged" and change.to == (change.slug,):
        return "holds them all"
    words = {"renamed": "is now", "merged": "is in", "split": "is split into", "moved": "has moved"}
    if change.kind == "dropped":
        return "is dropped"
    if change.kind == "moved":
        return words["moved"]
    return f"{words[change.kind]} {', '.join(change.to)}"


def restore(engine: Engine, study: StudyFile, name: str) -> Decided:
    """Make the categories of an earlier version active again, as a new version.

    Labels and decisions of the earlier version are restored where there is no later decision on the
    latent; later decisions are carried by equal slug. UsageError for a version that the active one
    does not follow.
    """
    with write_session(engine) as session:
        now = required_version(session, study)
        earlier = named_version(session, now, name, "restore")
        line = line_between(session, earlier.id, now.id)
        title = f"{earlier.name} {earlier.version}"
        if line is None:
            raise UsageError(
                f"taxonomy restore: {now.name} {now.version}, which is active, does not follow"
                f" {title}; `difflens taxonomy show --versions` lists what follows what"
            )
        tree, old = load_version(session, now.id), load_version(session, earlier.id)
        if content_of(tree) == content_of(old):
            return Decided(False, f"{now.name} {now.version}")
        new = old.model_copy(update={"version": next_version(tree.version)})
        since = [version.id for version in line[1:]]

        def bring_back(version: TaxonomyVersion, comparison_id: int) -> None:
            latents = members_of(session, comparison_id)
            decided = _decided_since(session, since)
            carry_back(
                session,
                earlier.id,
                version.id,
                same_slugs(session, earlier.id, version.id),
                latents,
                [latent for latent in latents if latent not in decided],
            )

        edit = _edit(tree, new, renames_since(session, now.id).get(earlier.sha256, {}))
        note = f"{ACCEPTED_NOTE}restore {earlier.version}"
        return apply_edit(session, now, edit, note, {"restore": title}, bring_back)


def _edit(now: Taxonomy, new: Taxonomy, renamed: Mapping[str, str]) -> Edit:
    """The edit from the present categories to the earlier ones.

    Renamed categories get their earlier slug; others that the earlier version lacks are dropped.
    `renamed`: earlier slug -> present slug.
    """
    earlier = {present: old for old, present in renamed.items() if old in new}
    gone = [
        CategoryEdit("renamed", slug, (earlier[slug],))
        if slug in earlier
        else CategoryEdit("dropped", slug)
        for slug in now.slugs
        if slug not in new
    ]
    return Edit(new, changes_between(now, new, gone))


def _decided_since(session: Session, version_ids: list[int]) -> set[int]:
    """Latents with a reviewer's own decision under one of these versions."""
    query = select(ReviewEvent.latent_id).where(
        ReviewEvent.taxonomy_version_id.in_(version_ids), ReviewEvent.carried_from_id.is_(None)
    )
    return set(session.execute(query).scalars())
