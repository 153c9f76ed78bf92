from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import numpy as np
import pytest

from labeler.report.comparisons import LatentSetView, ScalingCloud
from labeler.report.figures import (
    DOWN,
    INK,
    MOST_POINTS,
    NEUTRAL,
    UP,
    Layout,
    delta_norm_histogram,
    forest_plot,
    inline_svg,
    nu_scatter,
)
from labeler.report.model import CategoryRow

SVG = "{http://www.w3.org/2000/svg}"


def row(**changes: object) -> CategoryRow:
    """A row with a finite interval and no evidence of a change."""
    base = CategoryRow(
        category="safety",
        name="Safety",
        parent="safety-and-honesty",
        level=2,
        counting="primary",
        weighting="none",
        denominator="labelled",
        target_count=19,
        target_total=89,
        reference_count=18,
        reference_total=112,
        target_share=19 / 89,
        target_share_low=0.14,
        target_share_high=0.31,
        reference_share=18 / 112,
        reference_share_low=0.1,
        reference_share_high=0.24,
        percent_change=32.8,
        ci_low=-25.0,
        ci_high=136.0,
        difference_points=5.3,
        difference_points_low=-5.0,
        difference_points_high=16.0,
        p_value=0.36,
        q_value=0.94,
        verdict="no evidence",
        printed_change="+32.8%",
        situation="counted",
        test="fisher",
        target_effective=89.0,
        reference_effective=112.0,
        detectable_rise=None,
        detectable_fall=None,
    )
    return replace(base, **changes)


def texts(document: str) -> list[str]:
    return [
        "".join(node.itertext()) for node in ElementTree.fromstring(document).iter(f"{SVG}text")
    ]


ROWS = [
    row(),
    row(name="Up", verdict="up", percent_change=300.0, ci_low=50.0, ci_high=900.0),
    row(name="Down", verdict="down", percent_change=-80.0, ci_low=-95.0, ci_high=-20.0),
    row(
        name="New",
        verdict="too few to say",
        reference_count=0,
        percent_change=None,
        ci_low=-1.0,
        ci_high=None,
        printed_change="new",
    ),
    row(
        name="Gone",
        verdict="too few to say",
        target_count=0,
        percent_change=-100.0,
        ci_low=-100.0,
        ci_high=19.0,
        printed_change="-100.0%",
    ),
]


@pytest.mark.parametrize("layout", ["wide", "narrow"])
def test_the_change_plot_names_every_category_with_counts_and_change(layout: Layout) -> None:
    written = " | ".join(texts(forest_plot(ROWS, layout, "plot")))
    for entry in ROWS:
        assert entry.name in written
        assert entry.printed_change in written
        assert f"{entry.target_count}/89 vs {entry.reference_count}/112" in written
    assert "0%" in written
    assert "+300%" in written


def test_verdicts_differ_in_colour_and_in_shape() -> None:
    def marks(verdict: str) -> tuple[set[str], set[str]]:
        document = forest_plot([row(verdict=verdict)], "wide", "plot")
        root = ElementTree.fromstring(document)
        shapes = {node.get("d", "") for node in root.iter(f"{SVG}path")}
        colours = {colour for colour in (UP, DOWN, INK, NEUTRAL) if f"stroke: {colour}" in document}
        return shapes, colours

    found = {verdict: marks(verdict) for verdict in ("up", "down", "no evidence", "too few to say")}
    shared = set.intersection(*(shapes for shapes, _ in found.values()))
    own = [frozenset(shapes - shared) for shapes, _ in found.values()]
    assert len(set(own)) == 4
    assert UP in found["up"][1]
    assert DOWN in found["down"][1]
    assert not {UP, DOWN} & found["no evidence"][1]


def test_equal_rows_give_equal_bytes() -> None:
    assert forest_plot(ROWS, "wide", "plot") == forest_plot(ROWS, "wide", "plot")


def test_hostile_names_are_drawn_as_text() -> None:
    name = "<script>$\\frac{1}{0}$ & \x1b[1m"
    written = texts(forest_plot([row(name=name)], "wide", "plot"))
    assert "<script>$\\frac{1}{0}$ & \u241b[1m" in written


def test_a_long_name_is_cut_before_it_meets_the_plot() -> None:
    written = texts(forest_plot([row(name="long " * 40)], "narrow", "plot"))
    assert max(len(text) for text in written) < 60


def test_an_inline_figure_has_its_own_ids_a_title_and_the_pages_colours() -> None:
    element = inline_svg(forest_plot(ROWS, "wide", "a"), "a", "Change & <more>")
    root = ElementTree.fromstring(element)
    ids = [node.get("id") for node in root.iter() if node.get("id")]
    assert ids
    assert all(name is not None and name.startswith("a-") for name in ids)
    assert root.findtext("title") == "Change & <more>"
    assert "var(--ink)" in element
    assert INK not in element


def cloud(n: int) -> ScalingCloud:
    generator = np.random.default_rng(0)
    chosen = np.zeros(n, dtype=bool)
    chosen[:5] = True
    nu_error = generator.uniform(0, 2, n)
    nu_error[-1] = np.nan
    return ScalingCloud(generator.uniform(0, 1, n), nu_error, generator.uniform(-1, 1, n), chosen)


LATENTS = LatentSetView("target", "a/target", "simpo", "ranked", {}, None, "simpo", "it", 5)


def test_the_scatter_draws_the_set_and_at_most_so_many_others() -> None:
    document = nu_scatter(LATENTS, cloud(MOST_POINTS + 500), "nu")
    uses = [node for node in ElementTree.fromstring(document).iter(f"{SVG}use") if node.get("x")]
    assert MOST_POINTS <= len(uses) <= MOST_POINTS + 5 + 40
    assert "nu_reconstruction" in texts(document)


@pytest.mark.slow
def test_isolation_figures_stand_undefined_and_empty_values() -> None:
    nothing = ScalingCloud(
        np.full(3, np.nan), np.full(3, np.nan), np.full(3, np.nan), np.zeros(3, dtype=bool)
    )
    assert "nu_error" in texts(nu_scatter(LATENTS, nothing, "nu"))
    assert "delta_norm" in texts(delta_norm_histogram(LATENTS, nothing, "norm"))
