"""The threshold sweep as small multiples: one panel a category, the change with its band."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from labeler.report.figures import (
    DOWN,
    GRID,
    INK,
    MUTED,
    PAPER,
    UP,
    Layout,
    figure_style,
    render_svg,
)
from labeler.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from taxonomy.robustness import SweepPoint, SweptCategory


MOST_PANELS = 12
_EDGE = math.log(16.0)
"""Log ratio beyond which a change or a bound is drawn at the edge."""
_TICKS = ((0.1, "-90%"), (1 / 3, "-67%"), (1.0, "0%"), (3.0, "+200%"), (10.0, "+900%"))
_COLUMNS = {"wide": 4, "narrow": 2}
_LONGEST_NAME = {"wide": 25, "narrow": 22}


def chosen_panels(swept: Sequence[SweptCategory]) -> list[SweptCategory]:
    """The categories with the most latents, in the order given."""
    by_size = sorted(swept, key=lambda one: -_size(one))[:MOST_PANELS]
    return [one for one in swept if one in by_size and _size(one)]


def _size(one: SweptCategory) -> int:
    return one.points[-1].target_count + one.points[-1].reference_count


def sweep_plot(
    swept: Sequence[SweptCategory],
    names: Mapping[str, str],
    meaning: str,
    layout: Layout,
    name: str,
) -> str:
    """An SVG document: the change over the threshold, the study's own at the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = chosen_panels(swept)
    columns = min(_COLUMNS[layout], max(1, len(panels)))
    rows = math.ceil(len(panels) / columns)
    width = 10.0 if layout == "wide" else 4.4
    height = 0.45 + rows * (1.75 if layout == "wide" else 1.6)
    with figure_style(name):
        figure = Figure(figsize=(width, height), facecolor=PAPER)
        FigureCanvasAgg(figure)
        left = 0.62 / width
        cell_width, cell_height = (1 - left - 0.01) / columns, (height - 0.5) / height / rows
        for index, one in enumerate(panels):
            row, column = divmod(index, columns)
            axes = figure.add_axes(
                (
                    left + column * cell_width,
                    0.5 / height + (rows - 1 - row) * cell_height + 0.1 * cell_height,
                    cell_width * 0.9,
                    cell_height * 0.62,
                )
            )
            title = names.get(one.category, one.category)
            _draw(axes, one, _clipped(title, layout), is_first=column == 0)
        is_drawn = any(point.null_low is not None for one in panels for point in one.points)
        end = "" if is_drawn else ": strict on the left, as in this study on the right"
        figure.text(left, 0.12 / height, f"{meaning}{end}", fontsize=9.5, color=MUTED)
        return render_svg(figure)


def _clipped(name: str, layout: Layout) -> str:
    text, longest = one_line(name), _LONGEST_NAME[layout]
    return text if len(text) <= longest else text[: longest - 1] + "\u2026"


def _draw(axes: Axes, one: SweptCategory, title: str, *, is_first: bool) -> None:
    axes.set_facecolor("none")
    axes.set_ylim(-_EDGE, _EDGE)
    low, high = one.points[0].threshold, one.points[-1].threshold
    margin = 0.04 * (high - low) or 1.0
    axes.set_xlim(low - margin, high + margin)
    axes.axhline(0.0, color=MUTED, linewidth=1.0, zorder=1)
    bands = [(point.threshold, *_band(point)) for point in one.points if _has_band(point)]
    axes.fill_between(
        [threshold for threshold, _, _ in bands],
        [low for _, low, _ in bands],
        [high for _, _, high in bands],
        color=GRID,
        linewidth=0,
        zorder=0,
    )
    colour = DOWN if one.points[-1].sign < 0 else UP
    signed = [point for point in one.points if point.sign or point.percent_change is not None]
    axes.plot(
        [point.threshold for point in signed],
        [_change(point) for point in signed],
        color=colour, linewidth=1.6, marker="o", markersize=3, zorder=3,
    )  # fmt: skip
    axes.set_yticks(
        [math.log(ratio) for ratio, _ in _TICKS],
        [label if is_first else "" for _, label in _TICKS],
    )
    axes.set_xticks([low, high], [_number(low), _number(high)])
    axes.tick_params(length=0, labelsize=8.5, pad=3)
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=13, weight="bold")
    axes.text(
        0.0, 1.05, _STABILITY[one.stability], transform=axes.transAxes, fontsize=8.5, color=MUTED
    )


_STABILITY = {
    "stable": "sign holds",
    "unstable": "sign turns: unstable",
    "too few to say": "too few to say",
}


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 10 or value == round(value) else f"{value:.2g}"


def _change(point: SweepPoint) -> float:
    if point.percent_change is None:
        return _EDGE
    return _place(point.percent_change)


def _has_band(point: SweepPoint) -> bool:
    return point.null_low is not None or point.ci_low is not None


def _band(point: SweepPoint) -> tuple[float, float]:
    """What chance does at this threshold where it was drawn, else the interval of the change."""
    if point.null_low is not None:
        return _place(point.null_low), _place(point.null_high)
    return _place(point.ci_low), _EDGE if point.ci_high is None else _place(point.ci_high)


def _place(percent: float | None) -> float:
    """Log ratio of a percentage, at the edge where it lies beyond."""
    if percent is None or percent <= -100:
        return -_EDGE
    return min(max(math.log1p(percent / 100), -_EDGE), _EDGE)
