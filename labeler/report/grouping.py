"""Latents by category and side, for the page."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from labeler.report.model import ChangeTable, LatentView
from labeler.store.outcomes import OUTCOMES


@dataclass(frozen=True)
class LatentGroup:
    """The latents of one category, or of one outcome without category."""

    key: str
    title: str
    note: str
    target: tuple[LatentView, ...]
    reference: tuple[LatentView, ...]

    @property
    def size(self) -> int:
        """Latents of both sides."""
        return len(self.target) + len(self.reference)


@dataclass(frozen=True)
class Section:
    """A group of categories with those of its categories that have latents."""

    key: str
    title: str
    groups: tuple[LatentGroup, ...]


def sections_of(table: ChangeTable, latents: Sequence[LatentView]) -> tuple[Section, ...]:
    """Latents under their primary category in the table's order, then those without one."""
    members: dict[str, list[LatentView]] = defaultdict(list)
    for latent in latents:
        members[latent.category or ""].append(latent)
    left: dict[str, list[LatentView]] = defaultdict(list)
    for latent in members[""]:
        left[latent.outcome].append(latent)
    found = []
    for parent in (row for row in table.rows if row.parent is None):
        inside = [row for row in table.rows if parent.category in (row.category, row.parent)]
        groups = tuple(
            _group(row.category, row.name, "", members[row.category])
            for row in inside
            if members[row.category]
        )
        if groups:
            found.append(Section(parent.category, parent.name, groups))
    without = tuple(
        _group(outcome.name, outcome.title, outcome.note, left[outcome.name])
        for outcome in OUTCOMES
        if left[outcome.name]
    )
    return (*found, Section("no-category", "Without a category", without)) if without else (*found,)


def _group(key: str, title: str, note: str, latents: Sequence[LatentView]) -> LatentGroup:
    return LatentGroup(
        key=key,
        title=title,
        note=note,
        target=tuple(latent for latent in latents if latent.side == "target"),
        reference=tuple(latent for latent in latents if latent.side == "reference"),
    )
