"""Two studies side by side: each category's change in both, and over both where they are seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy import Engine, select
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.report.comparisons import ActiveComparison, read_comparisons
from labeler.report.model import CategoryRow, ChangeTable
from labeler.report.stored import read_stored_tables
from labeler.store.comparisons import NamedComparison
from labeler.store.engine import read_session
from labeler.store.schema import Crosscoder, Latent, LatentSetMember, SubjectModel
from labeler.store.taxonomies import renames_since
from labeler.text import interval_text, one_line, percent_text, probability_text
from taxonomy.counts import Side

if TYPE_CHECKING:
    from rich.console import Console

    from taxonomy.over_seeds import CombinedChange, LogRatio


@dataclass(frozen=True)
class Identity:
    """What makes two comparisons seeds of each other: models and categories, not dictionaries."""

    target: str | None
    """Fingerprint of the side's model; None where the latents were imported."""
    reference: str | None
    taxonomy_sha256: str
    crosscoders: frozenset[str]


@dataclass(frozen=True)
class ReportedComparison:
    """A comparison as its study's newest report stored it."""

    study: str
    table: ChangeTable
    identity: Identity
    renames: dict[str, dict[str, str]] = field(default_factory=dict)
    """Hash of each earlier taxonomy version -> its slugs that were renamed since, with the new."""

    def is_seed_of(self, other: ReportedComparison) -> bool:
        """Whether both compare the same models under the same categories by other crosscoders."""
        mine, its = self.identity, other.identity
        return (
            mine.target is not None
            and (mine.target, mine.reference) == (its.target, its.reference)
            and mine.taxonomy_sha256 == its.taxonomy_sha256
            and mine.crosscoders.isdisjoint(its.crosscoders)
            and self.table.denominator == other.table.denominator
        )


@dataclass(frozen=True)
class ComparedRow:
    """One category in both studies; None where a study does not have it."""

    category: str
    name: str
    level: int
    first: CategoryRow | None
    second: CategoryRow | None
    difference_p: float | None
    """p that both changes are equal (z test of the adjusted log ratios); None = not testable."""
    combined: CombinedChange | None
    """Over both as seeds of one comparison."""

    @property
    def signs(self) -> str:
        """same, opposite, or empty where a study has no sign."""
        signs = [row.sign for row in (self.first, self.second) if row is not None]
        if len(signs) < 2 or 0 in signs:
            return ""
        return "same" if signs[0] == signs[1] else "opposite"


@dataclass(frozen=True)
class SideBySide:
    """Two comparisons, category by category."""

    first: ReportedComparison
    second: ReportedComparison
    are_seeds: bool
    rows: tuple[ComparedRow, ...]
    renamed: dict[str, str] = field(default_factory=dict)
    """Slugs of the study with the older taxonomy -> those by which they are paired."""


def read_reported(
    engine: Engine, study: str, named: Sequence[NamedComparison] | None = None
) -> list[ReportedComparison]:
    """The comparisons of a study that a report has covered; UsageError where none has."""
    with read_session(engine) as session:
        facts = {entry.comparison.name: entry for entry in read_comparisons(session, named)}
        found = [
            ReportedComparison(
                study,
                table,
                _identity(session, facts[table.comparison]),
                renames_since(session, facts[table.comparison].version.id),
            )
            for table in read_stored_tables(session, named=named)
        ]
    if not found:
        raise UsageError(f"{study}: no report yet; run `difflens report` on it first")
    return found


def side_by_side(
    first: Sequence[ReportedComparison], second: Sequence[ReportedComparison]
) -> tuple[SideBySide, ...]:
    """Pair the comparisons of two studies by name; the only ones of both pair whatever they are.

    UsageError where nothing pairs.
    """
    by_name = {one.table.comparison: one for one in second}
    pairs = [
        (one, by_name[one.table.comparison]) for one in first if one.table.comparison in by_name
    ]
    if not pairs and len(first) == len(second) == 1:
        pairs = [(first[0], second[0])]
    if not pairs:
        names = [", ".join(one.table.comparison for one in side) for side in (first, second)]
        raise UsageError(
            f"--compare: no comparison of the two studies has the same name ({names[0]} here, "
            f"{names[1]} there)"
        )
    return tuple(_pair(one, other) for one, other in pairs)


def _pair(first: ReportedComparison, second: ReportedComparison) -> SideBySide:
    seeds = first.is_seed_of(second)
    old_first = second.renames.get(first.identity.taxonomy_sha256, {})
    old_second = first.renames.get(second.identity.taxonomy_sha256, {})
    mine = {old_first.get(row.category, row.category): row for row in first.table.rows}
    its = {old_second.get(row.category, row.category): row for row in second.table.rows}
    shown = [
        slug
        for slug in dict.fromkeys([*mine, *its])
        if any(slug in side and not side[slug].is_empty for side in (mine, its))
    ]
    rows = tuple(_row(slug, mine.get(slug), its.get(slug), seeds) for slug in shown)
    renamed = {old: new for old, new in (old_first | old_second).items() if new in shown}
    return SideBySide(first, second, seeds, rows, renamed)


def _row(
    slug: str, first: CategoryRow | None, second: CategoryRow | None, are_seeds: bool
) -> ComparedRow:
    from taxonomy.over_seeds import combine_seeds

    known_row = next(row for row in (first, second) if row is not None)
    ratios = [_log_ratio(row) for row in (first, second)]
    known = [ratio for ratio in ratios if ratio is not None]
    return ComparedRow(
        category=slug,
        name=known_row.name,
        level=known_row.level,
        first=first,
        second=second,
        difference_p=_difference_p(known) if len(known) == 2 else None,
        combined=combine_seeds(known) if are_seeds and len(known) == 2 else None,
    )


def _log_ratio(row: CategoryRow | None) -> LogRatio | None:
    from taxonomy.over_seeds import log_ratio_of

    if row is None or not row.target_total or not row.reference_total:
        return None
    target, reference = (
        Side(side.count / (row.over_seeds or 1), side.total / (row.over_seeds or 1))
        for side in (row.target, row.reference)
    )
    return log_ratio_of(target, reference)


def _difference_p(ratios: Sequence[LogRatio]) -> float | None:
    first, second = ratios
    variance = first.variance + second.variance
    if variance <= 0:
        return None
    return math.erfc(abs(first.value - second.value) / math.sqrt(2 * variance))


def _identity(session: Session, facts: ActiveComparison) -> Identity:
    sets = (facts.target_set, facts.reference_set)
    members = select(LatentSetMember.latent_id).where(
        LatentSetMember.latent_set_id.in_([latent_set.id for latent_set in sets])
    )
    used = session.execute(
        select(Crosscoder.name, Crosscoder.sha256).where(
            Crosscoder.id.in_(select(Latent.crosscoder_id).where(Latent.id.in_(members)))
        )
    )
    target, reference = (
        None
        if latent_set.target_model_id is None
        else session.get_one(SubjectModel, latent_set.target_model_id).fingerprint
        for latent_set in sets
    )
    return Identity(
        target=target,
        reference=reference,
        taxonomy_sha256=facts.version.sha256,
        crosscoders=frozenset(sha256 or name for name, sha256 in used),
    )


def print_side_by_side(pairs: Sequence[SideBySide], console: Console) -> None:
    """Print each pair of comparisons as a table, and what may be said of both together."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    for pair in pairs:
        first, second = pair.first, pair.second
        heading = f"{first.table.comparison}: {first.study} next to {second.study}"
        shown = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
        shown.add_column("category", overflow="fold", min_width=9)
        headings = ["this study", "95% interval", "the other", "95% interval", "signs"]
        headings += ["both", "95% interval"] if pair.are_seeds else ["differ, p"]
        for heading_of_column in headings:
            shown.add_column(heading_of_column, justify="right", no_wrap=True)
        for row in pair.rows:
            indent = "" if row.level == 1 else "  "
            shown.add_row(
                Text(indent + one_line(row.category)), *cells(row, are_seeds=pair.are_seeds)
            )
        console.print()
        console.print(Text(one_line(heading), style="bold"))
        console.print()
        console.print(shown)
        console.print()
        console.print(Text(summary(pair)))


def cells(row: ComparedRow, *, are_seeds: bool) -> list[str]:
    """The cells of a row after its name."""
    shown = [*_change(row.first), *_change(row.second), row.signs]
    if not are_seeds:
        return [*shown, probability_text(row.difference_p)]
    if row.combined is None:
        return [*shown, "", ""]
    both = row.combined
    return [*shown, percent_text(both.percent_change), interval_text(both.ci_low, both.ci_high)]


def summary(pair: SideBySide) -> str:
    """How often the signs agree, and whether the two are seeds of one comparison."""
    signed = [row for row in pair.rows if row.signs]
    same = sum(row.signs == "same" for row in signed)
    said = f"{same} of {len(signed)} changes with a sign in both studies have the same one."
    alone = [row.category for row in pair.rows if row.first is None or row.second is None]
    if alone:
        said += f" Categories of one study only, not compared: {', '.join(alone)}."
    if pair.renamed:
        words = ", ".join(f"{old} is {new} now" for old, new in pair.renamed.items())
        said += f" Paired as renamed in between: {words}."
    if pair.are_seeds:
        return (
            f"{said} Both compare the same models by different crosscoders: `both` combines them "
            "as two seeds, with the variance between seeds in its interval."
        )
    return f"{said} They are not seeds of one comparison, so that nothing is combined."


def _change(row: CategoryRow | None) -> tuple[str, str]:
    if row is None or row.is_empty:
        return "", ""
    return row.printed_change, interval_text(row.ci_low, row.ci_high)
