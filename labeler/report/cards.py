"""One card per category: what every measure says about it, and the claim that follows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from labeler.report.effects import alike_words, effect_share
from labeler.report.model import CategoryRow, ChangeTable
from labeler.text import listed, probability_text, share_text
from taxonomy.counts import ALPHA, BehaviourChange

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
    """The claim of a measure that is distinguishable from zero."""
    value: str
    detail: str
    anchor: str
    """Where the page has the row, after the comparison's prefix."""
    query: str
    """SQL that selects the row."""


@dataclass(frozen=True)
class CategoryCard:
    """A category and its measures."""

    row: CategoryRow
    measures: tuple[Measure, ...]

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
    def claim(self) -> str:
        """The claim in one sentence, with its strength."""
        effects = [each.words for each in self.measures if each.direction == "matters"]
        return "; ".join([self._change, *effects])

    @property
    def _change(self) -> str:
        called, n = self.called, sum(each.name != EFFECT for each in self.measures)
        if self.direction == "contradictory":
            return "The measures contradict each other: " + ", ".join(
                f"{direction} by {listed([each.name for each in called[direction]])}"
                for direction in DIRECTIONS
            )
        if self.direction == "no evidence":
            return f"Not shown to change by {'any of ' if n > 1 else ''}{_measures(n)}"
        found = called[self.direction]
        strength = f"{self.direction.capitalize()} by {len(found)} of {_measures(n)}"
        return f"{strength}: {', '.join(each.words for each in found)}"

    @property
    def n_called(self) -> int:
        """Measures that are distinguishable from zero."""
        return sum(len(each) for each in self.called.values())


def cards(table: ChangeTable) -> tuple[CategoryCard, ...]:
    """A card for every category with more measures than its counts, the surest first.

    Groups have none: their categories say more. Planted categories precede others that are as sure.
    """
    found = [CategoryCard(row, tuple(_measures_of(row, table))) for row in table.leaves]
    found = [card for card in found if len(card.measures) > 1]
    planted = {check.row.category for check in table.planted}
    return tuple(
        sorted(
            found,
            key=lambda card: (
                -card.n_called,
                card.row.category not in planted,
                min(card.row.q_value, card.row.relative_shift_q or 1.0),
                card.row.category,
            ),
        )
    )


def _measures_of(row: CategoryRow, table: ChangeTable) -> Iterator[Measure]:
    where = f"comparison = '{_quoted(table.comparison)}' AND category = '{_quoted(row.category)}'"
    statistic = f"SELECT * FROM v_category_change_statistic WHERE {where}"
    yield Measure(
        name="latents",
        direction=row.verdict,
        words="more latents" if row.sign > 0 else "fewer latents",
        value=f"{row.target_count} against {row.reference_count}",
        detail="none" if row.is_empty else f"q {probability_text(row.q_value)}",
        anchor=f"row-{row.category}",
        query=statistic,
    )
    if row.relative_shift is not None and row.relative_shift_q is not None:
        more = row.relative_shift > 0
        yield Measure(
            name="strength",
            direction=_direction(row.relative_shift, row.relative_shift_q),
            words="used more strongly" if more else "used less strongly",
            value=f"{row.relative_shift:+.3f}",
            detail=f"q {probability_text(row.relative_shift_q)}",
            anchor=f"shift-{row.category}",
            query=statistic,
        )
    yield from _effect(row, table)
    behaviour = _behaviour(row, table)
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
    """What the category's latents close of the output gap, beside random latents alike."""
    if table.effects is None:
        return
    direction = table.effects.directions[0]
    for each in direction.rows:
        stored = each.stored
        if (stored.kind, stored.name) != ("category", row.category) or not stored.n_controls:
            continue
        closed, control = effect_share(stored.first_order), effect_share(stored.control_mean)
        yield Measure(
            name=EFFECT,
            direction="matters" if each.is_significant else "no evidence",
            words=f"closes {closed} of the output gap, "
            f"random latents {alike_words(stored)} {control}",
            value=f"{closed} against {control}",
            detail="no q" if stored.q_value is None else f"q {probability_text(stored.q_value)}",
            anchor=f"effect-{row.category}",
            query=(
                f"SELECT * FROM v_category_effect WHERE comparison = '{_quoted(table.comparison)}' "
                f"AND kind = 'category' AND name = '{_quoted(row.category)}' AND is_main"
            ),
        )


def _behaviour(row: CategoryRow, table: ChangeTable) -> BehaviourChange | None:
    if table.behaviour is None:
        return None
    found = (each.change for each in table.behaviour.rows if each.latents.category == row.category)
    return next(found, None)


def _direction(value: float, q_value: float) -> Direction:
    if q_value >= ALPHA:
        return "no evidence"
    return "up" if value > 0 else "down"


def _measures(n: int) -> str:
    return "1 measure" if n == 1 else f"{n} measures"


def _quoted(text: str) -> str:
    return text.replace("'", "''")
