"""The plots of a report: the change with its intervals, isolation, the threshold sweep.

They are SVG: with their own colours as files, with the page's inside the page.
"""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from labeler.report.comparisons import LatentSetView, ScalingCloud, ShiftCloud
from labeler.report.model import CategoryRow
from labeler.text import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import Locator


BoolArray = NDArray[np.bool_]
FloatArray = NDArray[np.float64]
INK = "#1c2430"
MUTED = "#5d6878"
GRID = "#dfe3e9"
UP = "#0072b2"
DOWN = "#d55e00"
NEUTRAL = "#8a94a3"
PAPER = "#ffffff"
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--grid",
    UP: "--up",
    DOWN: "--down",
    NEUTRAL: "--neutral",
    PAPER: "--paper",
}
"""Okabe and Ito's blue and vermilion stay apart for colour-blind eyes; dark pages swap them all."""

_SETTINGS = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "text.usetex": False,
    "text.parse_math": False,
    "axes.unicode_minus": False,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "savefig.facecolor": PAPER,
}


@contextmanager
def figure_style(name: str) -> Iterator[None]:
    """The style of every figure; `name` makes its ids the same on every run."""
    import matplotlib

    with matplotlib.rc_context({**_SETTINGS, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser has the glyphs that the measuring font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def render_svg(figure: Figure) -> str:
    """The figure as an SVG document without date, so that equal figures give equal bytes."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def inline_svg(document: str, name: str, title: str) -> str:
    """An SVG element for a page: ids unique to `name`, the page's colours, a title to read out."""
    from markupsafe import escape

    body = document[document.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'(xlink:href|href)="#([^"]+)"', rf'href="#{name}-\2"', body)
    body = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", body)
    for colour, variable in _VARIABLES.items():
        body = re.sub(
            rf"((?:fill|stroke): ){colour}\b", rf"\1var({variable})", body, flags=re.IGNORECASE
        )
    view = re.search(r'viewBox="([^"]+)"', body)
    view_box = view.group(1) if view else "0 0 100 100"
    opening = (
        f'<svg viewBox="{view_box}" role="img" aria-labelledby="{name}-title">'
        f'<title id="{name}-title">{escape(one_line(title))}</title>'
    )
    return opening + body[body.index(">") + 1 :]


Layout = Literal["wide", "narrow"]
_TICKS = (1.0, 2.0, 0.5, 4.0, 0.25, 10.0, 0.1, 20.0, 0.05)
"""Ratios worth a label, the most telling first; a label too near to an earlier one is left out."""
_WIDEST_RATIO = 24.0
"""A bound beyond this ratio, or under its inverse, is drawn as an arrow."""
_LONGEST_NAME = {"wide": 34, "narrow": 27}
NOTHING = "\u2013"
"""Printed where there is no change to print."""


@dataclass(frozen=True)
class _Mark:
    """Marker of a verdict; shape and filling tell it without colour."""

    shape: str
    colour: str
    filled: bool


_MARKS = {
    "up": _Mark("^", UP, True),
    "down": _Mark("v", DOWN, True),
    "no evidence": _Mark("o", INK, False),
    "too few to say": _Mark("x", NEUTRAL, False),
}


def forest_plot(rows: Sequence[CategoryRow], layout: Layout, name: str) -> str:
    """An SVG document: one line per row, in the given order.

    The rows' own intervals; a bound that is infinite or far out ends in an arrow, a category that
    only the target has ("new") sits at the right edge, one that only the reference has at the left.
    `narrow` puts names above the lines, for phones.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with figure_style(name):
        height = 0.75 + len(rows) * (0.29 if layout == "wide" else 0.46)
        figure = Figure(figsize=(10.0 if layout == "wide" else 4.4, height))
        FigureCanvasAgg(figure)
        left, right = (0.24, 0.79) if layout == "wide" else (0.025, 0.975)
        bottom = 0.5 / height
        axes = figure.add_axes((left, bottom, right - left, 1 - bottom - 0.08 / height))
        low, high = _limits(rows)
        _prepare(axes, low, high, len(rows), layout)
        for index, row in enumerate(rows):
            y = len(rows) - 1 - index
            _draw_interval(axes, row, y, low, high)
            (_write_right if layout == "wide" else _write_above)(axes, row, y)
        return render_svg(figure)


def _limits(rows: Sequence[CategoryRow]) -> tuple[float, float]:
    """Ratios at the edges of the axis: wide enough for what is finite, never absurdly wide."""
    ratios = [0.4, 2.5]
    for row in rows:
        for percent in (row.percent_change, row.ci_low, row.ci_high):
            if percent is not None and percent > -100:
                ratios.append(1 + percent / 100)
    low = max(min(ratios) * 0.85, 1 / _WIDEST_RATIO)
    high = min(max(ratios) * 1.18, _WIDEST_RATIO)
    return math.log(low), math.log(high)


def _prepare(axes: Axes, low: float, high: float, n_rows: int, layout: Layout) -> None:
    axes.set_xlim(low, high)
    axes.set_ylim(-0.7, n_rows - 0.3 if layout == "wide" else n_rows - 0.2)
    ticks = _ticks(low, high, least_gap=0.095 if layout == "wide" else 0.16)
    axes.set_xticks(
        [math.log(ratio) for ratio in ticks],
        ["0%" if ratio == 1 else f"{100 * (ratio - 1):+.0f}%" for ratio in ticks],
    )
    axes.set_yticks([])
    axes.tick_params(axis="x", length=0, labelsize=9.5, pad=6)
    axes.set_xlabel("change of the share, log scale", fontsize=9.5, labelpad=5)
    axes.set_facecolor("none")
    axes.figure.patch.set_facecolor(PAPER)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axvline(0.0, color=MUTED, linewidth=1.1, zorder=1)


def _ticks(low: float, high: float, least_gap: float) -> list[float]:
    """Ratios whose labels keep `least_gap`, a share of the axis, apart, and off its ends."""
    chosen: list[float] = []
    for ratio in _TICKS:
        place = math.log(ratio)
        gaps = [abs(place - math.log(other)) / (high - low) for other in chosen]
        edge = min(place - low, high - place) / (high - low)
        if edge >= least_gap / 3 and min(gaps, default=1.0) >= least_gap:
            chosen.append(ratio)
    return sorted(chosen)


def _draw_interval(axes: Axes, row: CategoryRow, y: float, low: float, high: float) -> None:
    if row.is_empty:
        return
    mark = _MARKS[row.verdict]
    left, cut_left = _end(row.ci_low, low, high, at_infinity=low)
    right, cut_right = _end(row.ci_high, low, high, at_infinity=high)
    line_colour = NEUTRAL if row.verdict == "too few to say" else mark.colour
    style = (0, (3, 2)) if row.verdict == "too few to say" else "solid"
    axes.plot([left, right], [y, y], color=line_colour, linewidth=1.8, linestyle=style, zorder=2)
    point, _ = _end(row.percent_change, low, high, at_infinity=high)
    for position, is_cut, arrow in ((left, cut_left, "<"), (right, cut_right, ">")):
        if is_cut and position == point:
            continue
        axes.plot(
            [position],
            [y],
            marker=arrow if is_cut else "|",
            color=line_colour,
            markersize=5.5 if is_cut else 7,
            clip_on=False,
            zorder=3,
        )
    axes.plot(
        [point],
        [y],
        marker=mark.shape,
        markersize=8,
        markeredgewidth=1.7,
        markerfacecolor=mark.colour if mark.filled else PAPER,
        markeredgecolor=mark.colour,
        linestyle="none",
        clip_on=False,
        zorder=4,
    )


def _end(percent: float | None, low: float, high: float, at_infinity: float) -> tuple[float, bool]:
    """Place of a percentage on the axis, and whether it lies beyond the edge."""
    if percent is None:
        return at_infinity, True
    if percent <= -100:
        return low, True
    place = math.log1p(percent / 100)
    return min(max(place, low), high), not low <= place <= high


def _counts(row: CategoryRow) -> str:
    return f"{row.target_count}/{row.target_total} vs {row.reference_count}/{row.reference_total}"


def _name(row: CategoryRow, layout: Layout) -> str:
    text, longest = one_line(row.name), _LONGEST_NAME[layout]
    return text if len(text) <= longest else text[: longest - 1] + "\u2026"


def _write_right(axes: Axes, row: CategoryRow, y: float) -> None:
    edge = axes.get_yaxis_transform()
    weight = "bold" if row.level == 1 else "normal"
    start = -0.436 if row.level == 1 else -0.409
    name = _name(row, "wide")
    axes.text(start, y, name, transform=edge, va="center", fontsize=10, weight=weight)
    axes.text(
        1.175, y, row.printed_change or NOTHING, transform=edge, va="center", ha="right",
        fontsize=10, weight="bold",
    )  # fmt: skip
    axes.text(1.185, y, _counts(row), transform=edge, va="center", fontsize=8.3, color=MUTED)


def _write_above(axes: Axes, row: CategoryRow, y: float) -> None:
    edge = axes.get_yaxis_transform()
    weight = "bold" if row.level == 1 else "normal"
    name = _name(row, "narrow")
    axes.text(0.0, y + 0.38, name, transform=edge, va="center", fontsize=10.5, weight=weight)
    numbers = f"{_counts(row)}   {row.printed_change or NOTHING}"
    axes.text(
        1.0, y + 0.38, numbers, transform=edge, va="center", ha="right", fontsize=9.5, color=MUTED
    )


MOST_POINTS = 2_000
"""Latents outside the set that a scatter plot shows; more are drawn at random."""
NU_ERROR_MAX = 0.2
NU_RECONSTRUCTION_MAX = 0.5
_NU_RANGE = (-0.15, 1.25)
_N_BINS = 40


def nu_scatter(latents: LatentSetView, cloud: ScalingCloud, name: str) -> str:
    """An SVG document: nu_error over nu_reconstruction, the set's latents marked.

    Values beyond the axes are drawn at their edge.
    """
    with figure_style(name):
        figure, axes = _panel()
        nu_error = np.clip(cloud.nu_error, *_NU_RANGE)
        nu_reconstruction = np.clip(cloud.nu_reconstruction, *_NU_RANGE)
        _dots(axes, latents, cloud.chosen, nu_reconstruction, nu_error)
        limit_error = float(latents.rule_params.get("nu_error_max", NU_ERROR_MAX))
        limit_reconstruction = float(
            latents.rule_params.get("nu_reconstruction_max", NU_RECONSTRUCTION_MAX)
        )
        axes.plot(
            [_NU_RANGE[0], limit_reconstruction, limit_reconstruction],
            [limit_error, limit_error, _NU_RANGE[0]],
            color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)),
        )  # fmt: skip
        axes.set_xlim(_NU_RANGE[0] - 0.03, _NU_RANGE[1] + 0.03)
        axes.set_ylim(_NU_RANGE[0] - 0.03, _NU_RANGE[1] + 0.03)
        axes.set_xlabel("nu_reconstruction", fontsize=10.5)
        axes.set_ylabel("nu_error", fontsize=10.5)
        return render_svg(figure)


def delta_norm_histogram(latents: LatentSetView, cloud: ScalingCloud, name: str) -> str:
    """An SVG document: delta_norm of all latents, the set's latents in front; counts on a log."""
    with figure_style(name):
        figure, axes = _panel()
        bins = np.linspace(0, 1, _N_BINS + 1)
        known = np.isfinite(cloud.delta_norm)
        common: dict[str, Any] = {"bins": bins, "edgecolor": PAPER, "linewidth": 0.5}
        axes.hist(np.clip(cloud.delta_norm[known], 0, 1), color=GRID, **common)
        axes.hist(
            np.clip(cloud.delta_norm[known & cloud.chosen], 0, 1), color=_colour(latents), **common
        )
        if known.any():
            axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
        axes.set_ylim(bottom=0.7)
        axes.set_xlim(0, 1)
        axes.set_xlabel("delta_norm", fontsize=10.5)
        axes.set_ylabel("latents", fontsize=10.5)
        axes.minorticks_off()
        return render_svg(figure)


def shift_scatter(latents: LatentSetView, chosen: BoolArray, shift: ShiftCloud, name: str) -> str:
    """An SVG document: strength shift over density, the set's latents marked.

    Values beyond the axes are drawn at their edge.
    """
    with figure_style(name):
        figure, axes = _panel()
        reach = _reach(shift.strength_shift, chosen)
        with np.errstate(divide="ignore"):
            density = np.where(shift.density > 0, np.log10(shift.density), np.nan)
        _dots(axes, latents, chosen, density, np.clip(shift.strength_shift, -reach, reach))
        axes.axhline(0.0, color=MUTED, linewidth=1.1, zorder=1)
        axes.set_ylim(-1.06 * reach, 1.06 * reach)
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.xaxis.set_major_formatter(lambda value, _: f"{10 ** (value + 2):g}%")
        axes.set_xlabel("tokens on which the latent fires", fontsize=10.5)
        axes.set_ylabel("weakened - strength shift - strengthened", fontsize=10.5)
        return render_svg(figure)


def shift_t_histogram(
    latents: LatentSetView, chosen: BoolArray, shift: ShiftCloud, name: str
) -> str:
    """An SVG document: t of the shift of all latents, the set's latents in front."""
    with figure_style(name):
        figure, axes = _panel()
        known = np.isfinite(shift.shift_t)
        reach = _reach(shift.shift_t, chosen)
        bins = np.linspace(-reach, reach, _N_BINS + 1)
        common: dict[str, Any] = {"bins": bins, "edgecolor": PAPER, "linewidth": 0.5}
        values = np.clip(shift.shift_t, -reach, reach)
        axes.hist(values[known], color=GRID, **common)
        axes.hist(values[known & chosen], color=_colour(latents), **common)
        axes.axvline(0.0, color=MUTED, linewidth=1.1)
        axes.set_xlabel("weakened - shift over its standard error - strengthened", fontsize=10.5)
        axes.set_ylabel("latents", fontsize=10.5)
        return render_svg(figure)


def _reach(values: FloatArray, chosen: BoolArray) -> float:
    """Largest absolute value on an axis: all the chosen, and nearly all others."""
    sizes = np.abs(values)
    known = np.isfinite(sizes)
    if not known.any():
        return 1.0
    of_chosen = sizes[known & chosen].max(initial=0.0)
    return float(max(of_chosen, np.quantile(sizes[known], 0.99))) or 1.0


def _whole_numbers() -> Locator:
    from matplotlib.ticker import MultipleLocator

    return MultipleLocator(1)


def _dots(
    axes: Axes, latents: LatentSetView, is_chosen: BoolArray, x: FloatArray, y: FloatArray
) -> None:
    """Latents with both values: those of the set marked, at most so many of the others."""
    known = np.isfinite(x) & np.isfinite(y)
    rest = np.flatnonzero(~is_chosen & known)
    if len(rest) > MOST_POINTS:
        rest = np.random.default_rng(0).choice(rest, MOST_POINTS, replace=False)
    chosen = np.flatnonzero(is_chosen & known)
    axes.plot(x[rest], y[rest], ".", markersize=3.2, color=NEUTRAL, alpha=0.55, markeredgewidth=0)
    axes.plot(
        x[chosen], y[chosen], linestyle="none", markersize=5.5, marker=_shape(latents),
        markerfacecolor=_colour(latents), markeredgecolor=PAPER, markeredgewidth=0.6,
    )  # fmt: skip


def _panel() -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.0, 3.6), facecolor=PAPER)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.125, 0.145, 0.84, 0.83))
    axes.set_facecolor("none")
    axes.tick_params(length=0, labelsize=10)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top", "bottom"):
        axes.spines[side].set_visible(False)
    return figure, axes


def _colour(latents: LatentSetView) -> str:
    return UP if latents.side == "target" else DOWN


def _shape(latents: LatentSetView) -> str:
    return "o" if latents.side == "target" else "s"
