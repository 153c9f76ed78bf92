"""How many latents a category has under any taxonomy version, and a comparison on each side."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.store.effective_rule import Setting, choose
from labeler.store.helpers import chunks
from labeler.store.schema import Category, Comparison, ComparisonSetting, Judge, LatentSetMember
from labeler.store.taxonomy_moves import members_of


def latents_under(session: Session, taxonomy_version_id: int) -> dict[str, int]:
    """Slug -> latents whose primary category it is, or was when the version was last in force."""
    slugs = {
        row.id: row.slug
        for row in session.execute(
            select(Category.id, Category.slug).where(
                Category.taxonomy_version_id == taxonomy_version_id
            )
        )
    }
    found: dict[str, set[int]] = defaultdict(set)
    for comparison_id, setting in _settings(session, taxonomy_version_id).items():
        for latent_id, choice in choose(
            session, setting, members_of(session, comparison_id)
        ).items():
            for category in choice.categories:
                if category.rank == 1:
                    found[slugs[category.category_id]].add(latent_id)
    return {slug: len(latents) for slug, latents in found.items()}


def on_each_side(session: Session, comparison_id: int, latent_ids: Collection[int]) -> list[int]:
    """How many of the latents are members of the target and of the reference side."""
    comparison = session.get_one(Comparison, comparison_id)
    counts = []
    for set_id in (comparison.target_set_id, comparison.reference_set_id):
        query = select(func.count()).where(LatentSetMember.latent_set_id == set_id)
        parts = (LatentSetMember.latent_id.in_(part) for part in chunks(set(latent_ids)))
        counts.append(sum(session.execute(query.where(part)).scalar_one() for part in parts))
    return counts


def _settings(session: Session, taxonomy_version_id: int) -> dict[int, Setting]:
    """The newest setting of each comparison under a version."""
    newest = (
        select(func.max(ComparisonSetting.id))
        .where(ComparisonSetting.taxonomy_version_id == taxonomy_version_id)
        .group_by(ComparisonSetting.comparison_id)
    )
    rows = session.execute(
        select(ComparisonSetting.comparison_id, ComparisonSetting.judge_id, Judge.endpoint_kind)
        .join(Judge, Judge.id == ComparisonSetting.judge_id)
        .where(ComparisonSetting.id.in_(newest))
    )
    return {
        row.comparison_id: Setting(taxonomy_version_id, row.judge_id, row.endpoint_kind == "import")
        for row in rows
    }
