"""What the latents do to the output: the rows of the stage `effect`, as the report shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy import select
from sqlalchemy.orm import Session

from crosscoder.config import SIDES
from labeler.report.model import CategoryRow
from labeler.store.schema import CategoryEffect, SubjectModel
from labeler.text import listed, one_line
from taxonomy.counts import ALPHA

if TYPE_CHECKING:
    from markupsafe import Markup

    from labeler.report.model import ChangeTable

SCOPE_WORDS = {
    "assistant": "tokens of answers",
    "answer_start": "first ten tokens of each answer",
    "content": "all content tokens",
}
_SIDE_NAMES = {"target": "all latents of the target side", "reference": "all of the reference side"}


@dataclass(frozen=True)
class EffectRow:
    """A set of latents, in the scope of its direction."""

    name: str
    stored: CategoryEffect

    @property
    def is_significant(self) -> bool:
        """Whether a category closes more than random latents alike, q below 0.05."""
        return self.stored.q_value is not None and self.stored.q_value < ALPHA

    @property
    def matters(self) -> bool:
        """Whether it does so by attribution and, where random latents were patched, then too."""
        patched = self.stored.restored_p
        return self.is_significant and (patched is None or patched < ALPHA)


@dataclass(frozen=True)
class GapRow:
    """The output gap over one kind of tokens, and what all latents restore of it."""

    words: str
    n_tokens: int
    gap: float | None
    all_latents: float | None
    with_constant: float | None


@dataclass(frozen=True)
class EffectDirection:
    """One ordered pair of models."""

    target: str
    reference: str
    scope: str
    gaps: tuple[GapRow, ...]
    rows: tuple[EffectRow, ...]
    """Sides, categories by attribution, then the top sets and all latents."""
    reach: float
    """Share at the end of the axis; longer bars stop there."""

    @property
    def gap(self) -> float | None:
        """Nats per token in the scope; None or 0 where the outputs are the same."""
        return self.rows[0].stored.gap

    @property
    def is_defined(self) -> bool:
        """Whether there is a gap of which shares can be taken."""
        return self.rows[-1].stored.restored is not None

    def of(self, category: str) -> EffectRow | None:
        """The row of a category; None where no set of latents was made of it."""
        found = (row for row in self.rows if row.stored.kind == "category")
        return next((row for row in found if row.stored.name == category), None)

    def bar(self, row: EffectRow) -> Markup:
        """The row's bars on the direction's common axis."""
        return effect_bar(row.stored, self.reach)


@dataclass(frozen=True)
class EffectResults:
    """All that was measured of one comparison."""

    directions: tuple[EffectDirection, ...]
    run_id: int
    n_documents: int


def read_effects(
    session: Session, comparison_id: int, rows: Sequence[CategoryRow]
) -> EffectResults | None:
    """The effects of a comparison; None where they were not measured."""
    query = (
        select(CategoryEffect)
        .where(CategoryEffect.comparison_id == comparison_id)
        .order_by(CategoryEffect.id)
    )
    stored = list(session.execute(query).scalars())
    if not stored:
        return None
    names = {row.category: row.name for row in rows}
    query_models = select(SubjectModel.id, SubjectModel.name)
    models = {row.id: row.name for row in session.execute(query_models)}
    pairs = dict.fromkeys((each.target_model_id, each.reference_model_id) for each in stored)
    directions = []
    for target, reference in pairs:
        of_pair = [
            each
            for each in stored
            if (each.target_model_id, each.reference_model_id) == (target, reference)
        ]
        directions.append(_direction(of_pair, (models[target], models[reference]), names))
    return EffectResults(tuple(directions), stored[0].run_id, stored[0].n_documents)


_ORDER = ("side", "category", "top", "all")


def _direction(
    stored: Sequence[CategoryEffect], models: tuple[str, str], names: dict[str, str]
) -> EffectDirection:
    main = [each for each in stored if each.is_main]
    ordered = sorted(main, key=lambda each: (_ORDER.index(each.kind), -(each.first_order or 0.0)))
    rows = tuple(EffectRow(_name(each, names), each) for each in ordered)
    scopes = dict.fromkeys(each.scope for each in stored)
    return EffectDirection(
        *models,
        scope=main[0].scope,
        gaps=tuple(
            _gap_row(scope, [each for each in stored if each.scope == scope]) for scope in scopes
        ),
        rows=rows,
        reach=_reach(main),
    )


def _name(each: CategoryEffect, names: dict[str, str]) -> str:
    if each.kind == "category":
        return names.get(each.name, each.name)
    return _SIDE_NAMES.get(each.name, each.name)


def _gap_row(scope: str, stored: Sequence[CategoryEffect]) -> GapRow:
    from labeler.store.effects import ALL_LATENTS, ALL_LATENTS_AND_CONSTANT

    by_name = {each.name: each for each in stored if each.kind == "all"}
    whole, constant = by_name.get(ALL_LATENTS), by_name.get(ALL_LATENTS_AND_CONSTANT)
    return GapRow(
        SCOPE_WORDS[scope],
        stored[0].n_tokens,
        stored[0].gap,
        None if whole is None else whole.restored,
        None if constant is None else constant.restored,
    )


_ENDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
_LEFT, _WIDTH = 4.0, 212.0
"""Pixels."""


def _reach(stored: Sequence[CategoryEffect]) -> float:
    """The first end of an axis that holds the bars of sides and categories."""
    compared = [each for each in stored if each.kind in ("side", "category")] or stored
    shares = [value for each in compared for value in (each.restored, each.carried) if value]
    largest = max(map(abs, shares), default=0.0)
    return next((end for end in _ENDS if end >= largest), _ENDS[-1])


def effect_bar(stored: CategoryEffect, reach: float) -> Markup:
    """The set's share with its interval, before the band of its controls, both measured alike.

    Where controls were patched, or there are none: restored share above, carried share below. Else
    the share by attribution. An SVG element with its words; what lies below 0 or beyond the axis
    ends at its edge.
    """
    from markupsafe import Markup

    name = "first_order" if _is_first_order(stored) else "restored"
    parts = [] if _is_first_order(stored) else [_bar("carried", 15, 6, stored.carried, reach)]
    band = _band(stored)
    if band is not None:
        low, high = (_place(end, reach) for end in band)
        parts.insert(
            0,
            Markup('<rect class="band" x="{x}" y="1" width="{w}" height="22"/>').format(
                x=f"{low:.1f}", w=f"{max(high - low, 1.5):.1f}"
            ),
        )
    parts.append(_bar(name, 3, 9, getattr(stored, name), reach))
    ends = getattr(stored, f"{name}_low"), getattr(stored, f"{name}_high")
    if None not in ends:
        parts.append(
            Markup('<line class="whisker" x1="{a}" x2="{b}" y1="7.5" y2="7.5"/>').format(
                a=f"{_place(ends[0], reach):.1f}", b=f"{_place(ends[1], reach):.1f}"
            )
        )
    return Markup(
        '<svg class="effect-bar" viewBox="0 0 220 24" width="220" height="24" role="img" '
        'aria-label="{words}"><title>{words}</title>{parts}'
        '<line class="zero" x1="4" x2="4" y1="0" y2="24"/></svg>'
    ).format(words=_words(stored), parts=Markup("").join(parts))


def _is_first_order(stored: CategoryEffect) -> bool:
    """Whether attribution alone can be compared with random sets."""
    return bool(stored.n_controls) and not stored.n_patched_controls


def _band(stored: CategoryEffect) -> tuple[float, float] | None:
    """What random sets reach, measured as the set is shown."""
    low, high = stored.restored_control_low, stored.restored_control_high
    if _is_first_order(stored):
        low, high = stored.control_low, stored.control_high
    return None if low is None or high is None else (low, high)


def _bar(kind: str, top: float, height: float, value: float | None, reach: float) -> Markup:
    from markupsafe import Markup

    width = _place(value or 0.0, reach) - _LEFT
    return Markup('<rect class="{kind}" x="4" y="{y}" width="{w}" height="{h}"/>').format(
        kind=kind, y=f"{top:g}", w=f"{width:.1f}", h=f"{height:g}"
    )


def _place(value: float, reach: float) -> float:
    return _LEFT + _WIDTH * min(max(value / reach, 0.0), 1.0)


def _words(stored: CategoryEffect) -> str:
    said = f"restores {effect_share(stored.restored)}, carries {effect_share(stored.carried)}"
    if _is_first_order(stored):
        said = f"closes {effect_share(stored.first_order)} by first order"
    band = _band(stored)
    if band is None:
        return f"{said}; no random set to compare with"
    low, high = (effect_share(end) for end in band)
    return f"{said}; random sets {alike_words(stored)} {low} to {high}"


def effect_share(value: float | None) -> str:
    """A share of the gap as a percentage; a dash where it was not measured or is undefined."""
    return "\u2013" if value is None else f"{100 * value:.1f}%"


def effect_sentences(table: ChangeTable) -> tuple[str, ...]:
    """What the sides restore of the output gap, against random latents alike."""
    if table.effects is None:
        return ()
    direction = table.effects.directions[0]
    if not direction.is_defined:
        return (
            f"{one_line(direction.target)} and {one_line(direction.reference)} have the same "
            "output at the hooked block: no effect is defined.",
        )
    by_key = {(row.stored.kind, row.stored.name): row.stored for row in direction.rows}
    parts = []
    for side in SIDES:
        stored = by_key.get(("side", side))
        if stored is not None:
            restored = effect_share(stored.restored)
            parts.append(f"the latents of the {side} side restore {restored}{_against(stored)}")
    whole = next(row for row in direction.gaps if row.words == SCOPE_WORDS[direction.scope])
    parts.append(f"all latents {effect_share(whole.all_latents)}")
    parts.append(f"all with means and biases {effect_share(whole.with_constant)}")
    return (
        f"Of the output gap of {direction.gap:.2g} nats per token ({whole.words}), "
        f"{listed(parts)}.",
    )


def _against(stored: CategoryEffect) -> str:
    if stored.restored_control_mean is not None:
        mean = effect_share(stored.restored_control_mean)
        p = "" if stored.restored_p is None else f", p = {stored.restored_p:.2g}"
        return f" (random latents {alike_words(stored)} {mean}{p}){_tested(stored)}"
    if stored.n_controls:
        p = "" if stored.p_value is None else f", p = {stored.p_value:.2g}"
        return (
            f" ({effect_share(stored.first_order)} by attribution, random latents "
            f"{alike_words(stored)} {effect_share(stored.control_mean)}{p}){_tested(stored)}"
        )
    return f" (there is no random set to compare with){_tested(stored)}"


def _tested(stored: CategoryEffect) -> str:
    half = " on the documents that they were not chosen by"
    return half if stored.on_half else ""


def alike_words(stored: CategoryEffect) -> str:
    """How near the controls are: "alike", or of how much of the set's magnitude."""
    if stored.p_value is not None or stored.control_magnitude is None:
        return "alike"
    return f"of {stored.control_magnitude:.0%} of the magnitude"
