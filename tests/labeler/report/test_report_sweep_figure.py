from __future__ import annotations

import xml.etree.ElementTree as ET

from labeler.report.sweep_figure import MOST_PANELS, chosen_panels, sweep_plot
from taxonomy.robustness import SweptCategory, SweptLatent, sweep_changes

SAID = {
    "stable": "sign holds",
    "unstable": "sign turns: unstable",
    "too few to say": "too few to say",
}


def swept(names: list[str]) -> tuple[SweptCategory, ...]:
    sides = [
        [
            SweptLatent(float(rank), frozenset({names[(rank * step) % len(names)]}))
            for rank in range(1, 61)
        ]
        for step in (1, 7)
    ]
    return sweep_changes(names, sides[0], sides[1], (10.0, 30.0, 60.0))


def test_the_largest_categories_get_a_panel_in_the_given_order() -> None:
    found = swept([f"category-{number}" for number in range(20)])
    panels = chosen_panels(found)
    assert len(panels) == MOST_PANELS
    assert panels == [one for one in found if one in panels]


def test_both_layouts_are_whole_svg_with_titles_and_what_became_of_the_sign() -> None:
    found = swept(["safety", "<b>bold</b> & more", "multilingual"])
    for layout in ("wide", "narrow"):
        document = sweep_plot(
            found, {"safety": "Safety"}, "rank within the side", layout, f"sweep-{layout}"
        )
        root = ET.fromstring(document)
        words = " ".join(text for element in root.iter() if (text := (element.text or "").strip()))
        assert "Safety" in words
        assert "<b>bold</b> & more" in words
        assert all(SAID[one.stability] in words for one in found)
        assert "rank within the side" in words


def test_equal_sweeps_give_equal_bytes() -> None:
    found = swept(["safety", "multilingual"])
    first, second = (sweep_plot(found, {}, "rank", "wide", "same") for _ in range(2))
    assert first == second
