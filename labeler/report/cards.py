"""One card per category: what every measure says about it, and the claim that follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from labeler.report.category_latents import CategoryLatents
from labeler.report.effects import alike_words, effect_share
from labeler.report.model import CategoryRow, ChangeTable
from labeler.text import probability_text, share_text
from taxonomy.counts import ALPHA

FIRST_CARDS = 6
"""Cards that the page opens with; the others follow on demand."""
EFFECT = "effect"
DIRECTIONS = ("up", "down")
"""What a measure that is distinguishable from zero says."""
Direction = Literal["up", "down", "no evidence", "too few to say", "matters"]


@dataclass(frozen=True)
class Measure:
    """What one measure says about a category."""

    name: str
    direction: Direction
    """`matters`: an effect on the output beyond chance, which is neither up nor down."""
    words: str
    """The claim of a measure that is distinguishable from zero, with its strength."""
    value: str
    detail: str
    anchor: str
    """Where the page has the row, after the comparison's prefix."""
    query: str
    """SQL that selects the row."""
    how: str = ""
    """How it was measured, where there are several ways."""


@dataclass(frozen=True)
class CategoryCard:
    """A category and its measures."""

    row: CategoryRow
    measures: tuple[Measure, ...]
    latents: CategoryLatents | None
    """None where no latent has the category."""
    latents_query: str
    """SQL that selects its latents with their labels."""
    is_group: bool = False

    @property
    def called(self) -> dict[str, list[Measure]]:
        """The measures that are distinguishable from zero, by direction."""
        return {
            direction: [each for each in self.measures if each.direction == direction]
            for direction in DIRECTIONS
        }

    @property
    def direction(self) -> str:
        """`up`, `down`, `contradictory` or `no evidence`."""
        said = [direction for direction, measures in self.called.items() if measures]
        return "contradictory" if len(said) == 2 else said[0] if said else "no evidence"

    @property
    def opening(self) -> str:
        """What the measures of change say together."""
        n = sum(each.name != EFFECT for each in self.measures)
        if self.direction == "contradictory":
            return "The measures contradict each other"
        if self.direction == "no evidence":
            return f"Not shown to change by {'any of ' if n > 1 else ''}{_measures(n)}"
        found = self.called[self.direction]
        return f"{self.direction.capitalize()} by {len(found)} of {_measures(n)}"

    @property
    def phrases(self) -> tuple[Measure, ...]:
        """The measures whose words follow the opening; an effect beyond chance comes last."""
        changes = [each for found in self.called.values() for each in found]
        return (*changes, *(each for each in self.measures if each.direction == "matters"))

    @property
    def claim(self) -> str:
        """The claim in one sentence, with its strength."""
        return ": ".join(filter(None, (self.opening, ", ".join(p.words for p in self.phrases))))

    @property
    def n_called(self) -> int:
        """Measures that are distinguishable from zero."""
        return sum(len(each) for each in self.called.values())


def cards(table: ChangeTable) -> tuple[CategoryCard, ...]:
    """A card for every category with more measures than its counts, the surest first.

    Planted categories precede others that are as sure; groups come last: their categories say more.
    """
    leaves = {row.category for row in table.leaves}
    found = [_card(row, table, row.category not in leaves) for row in table.rows]
    found = [card for card in found if len(card.measures) > 1]
    planted = {check.row.category for check in table.planted}
    return tuple(
        sorted(
            found,
            key=lambda card: (
                card.is_group,
                -card.n_called,
                card.row.category not in planted,
                min(card.row.q_value, card.row.called_shift_q or 1.0),
                card.row.category,
            ),
        )
    )


def _card(row: CategoryRow, table: ChangeTable, is_group: bool) -> CategoryCard:
    slug = _quoted(row.category)
    belongs = f"(category = '{slug}' OR parent = '{slug}')" if is_group else f"category = '{slug}'"
    return CategoryCard(
        row,
        tuple(_measures_of(row, table)),
        table.latents.get(row.category),
        "SELECT side, latent_id, explanation, reviewer, n_seeds, p_reappear FROM v_effective_label "
        f"WHERE comparison = '{_quoted(table.comparison)}' AND rank = 1 AND {belongs}",
        is_group,
    )


def _measures_of(row: CategoryRow, table: ChangeTable) -> Iterator[Measure]:
    where = f"comparison = '{_quoted(table.comparison)}' AND category = '{_quoted(row.category)}'"
    statistic = f"SELECT * FROM v_category_change_statistic WHERE {where}"
    counts = f"{row.target_count} against {row.reference_count}"
    yield Measure(
        name="latents",
        direction=row.verdict,
        words=f"{'more' if row.sign > 0 else 'fewer'} latents ({counts})",
        value=counts,
        detail="none" if row.is_empty else f"q {probability_text(row.q_value)}",
        anchor=f"row-{row.category}",
        query=statistic,
    )
    if row.called_shift is not None and row.called_shift_q is not None:
        strength = f"{row.shown_shift:+.3f}"
        yield Measure(
            name="strength",
            direction=_direction(row.called_shift, row.called_shift_q),
            words=f"used {'more' if row.called_shift > 0 else 'less'} strongly ({strength})",
            value=strength,
            detail=f"q {probability_text(row.called_shift_q)}",
            anchor=f"shift-{row.category}",
            query=statistic,
        )
    yield from _effect(row, table)
    behaviour = None if table.behaviour is None else table.behaviour.change_of(row.category)
    if behaviour is not None and behaviour.difference_points is not None:
        yield Measure(
            name="answers",
            direction=behaviour.verdict,
            words=f"answers change {behaviour.difference_points:+.0f} points",
            value=(
                f"{share_text(behaviour.reference_share)} to {share_text(behaviour.target_share)}"
            ),
            detail=f"q {probability_text(behaviour.q_value)}",
            anchor=f"answers-{row.category}",
            query=f"SELECT * FROM v_category_behaviour WHERE {where}",
        )


def _effect(row: CategoryRow, table: ChangeTable) -> Iterator[Measure]:
    """What the category's latents do to the output, beside random latents alike: by patching where
    such latents were patched too, else by attribution. Without such latents nothing is said.
    """
    found = None if table.effects is None else table.effects.directions[0].of(row.category)
    if found is None or not found.stored.n_controls:
        return
    stored = found.stored
    if stored.n_patched_controls:
        how, verb = "patched", "restores"
        share, control = effect_share(stored.restored), effect_share(stored.restored_control_mean)
        value = (
            f"{share} ({effect_share(stored.restored_low)} to {effect_share(stored.restored_high)})"
        )
        detail = _probability("p", stored.restored_p)
    else:
        how, verb = "1st order", "closes by first order"
        share, control = effect_share(stored.first_order), effect_share(stored.control_mean)
        value, detail = share, _probability("q", stored.q_value)
    yield Measure(
        name=EFFECT,
        direction="matters" if found.matters else "no evidence",
        words=f"{verb} {share} of the output gap (random latents {alike_words(stored)} {control})",
        value=f"{value} against {control}",
        detail=detail,
        anchor=f"effect-{row.category}",
        query=(
            f"SELECT * FROM v_category_effect WHERE comparison = '{_quoted(table.comparison)}' "
            f"AND kind = 'category' AND name = '{_quoted(row.category)}' AND is_main"
        ),
        how=how,
    )


def _probability(name: str, value: float | None) -> str:
    """A p or q; there is none beside random latents that are only the nearest in magnitude."""
    return f"no {name}" if value is None else f"{name} {probability_text(value)}"


def _direction(value: float, q_value: float) -> Direction:
    if q_value >= ALPHA:
        return "no evidence"
    return "up" if value > 0 else "down"


def _measures(n: int) -> str:
    return "1 measure" if n == 1 else f"{n} measures"


def _quoted(text: str) -> str:
    return text.replace("'", "''")
