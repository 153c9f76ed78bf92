"""A bar from weakened to strengthened: the strength shift of one latent with its interval."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crosscoder.isolation_rules import SHIFTED_WORDS
from labeler.report.model import Measure
from labeler.text import number_text

if TYPE_CHECKING:
    from markupsafe import Markup

_ENDS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Shifts at the ends of a bar; the first that holds the interval is taken."""
_MIDDLE, _HALF, _HEIGHT = 80.0, 74.0, 14.0
"""Pixels."""


def shift_bar(shift: Measure) -> Markup | str:
    """An SVG element coloured by the page's classes, with its words; empty where undefined.

    Its ends are the same number on both sides, which stands in the words.
    """
    from markupsafe import Markup

    if shift.value is None:
        return ""
    ends = [end for end in (shift.low, shift.high) if end is not None]
    reach = _reach([shift.value, *ends])
    low, high = min([shift.value, *ends]), max([shift.value, *ends])
    kind = "up" if shift.value > 0 else "down"
    middle = _HEIGHT / 2
    return Markup(
        '<svg class="shift-bar {kind}" viewBox="0 0 160 14" width="160" height="14" role="img" '
        'aria-label="{words}"><title>{words}</title>'
        '<line class="axis" x1="6" x2="154" y1="{y}" y2="{y}"/>'
        '<line class="zero" x1="80" x2="80" y1="1" y2="13"/>'
        '<line class="range" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        '<circle class="point" cx="{point}" cy="{y}" r="3.5"/></svg>'
    ).format(
        kind=kind,
        words=_words(shift, reach),
        y=f"{middle:g}",
        low=_place(low, reach),
        high=_place(high, reach),
        point=_place(shift.value, reach),
    )


def shift_word(shift: Measure) -> str:
    """Strengthened or weakened, by the sign; what is not certain is said to be so."""
    if shift.value is None:
        return ""
    word = SHIFTED_WORDS["target" if shift.value > 0 else "reference"]
    is_certain = None not in (shift.low, shift.high) and (shift.low or 0) * (shift.high or 0) > 0
    return word if is_certain else f"{word}, not certain"


def _words(shift: Measure, reach: float) -> str:
    interval = ""
    if shift.low is not None and shift.high is not None:
        interval = f", 95% interval {number_text(shift.low)} to {number_text(shift.high)}"
    return (
        f"{shift_word(shift)}: strength shift {number_text(shift.value)}{interval}; "
        f"the bar reaches from weakened by {reach:g} to strengthened by {reach:g}"
    )


def _reach(values: list[float]) -> float:
    largest = max(abs(value) for value in values)
    return next((end for end in _ENDS if end >= largest), _ENDS[-1])


def _place(value: float, reach: float) -> str:
    return f"{_MIDDLE + _HALF * min(max(value / reach, -1.0), 1.0):.1f}"
