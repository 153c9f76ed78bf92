"""The picture of an effect: a set and its random sets are measured alike."""

from __future__ import annotations

import pytest

from labeler.report.effects import effect_bar
from labeler.store.schema import CategoryEffect

MEASURED = {
    "restored": 0.1,
    "restored_low": 0.05,
    "restored_high": 0.15,
    "carried": 0.02,
    "first_order": 0.06,
    "first_order_low": 0.03,
    "first_order_high": 0.09,
    "control_low": 0.01,
    "control_high": 0.04,
}


def x_of(share: float) -> str:
    """Where a share lies on an axis to 0.2."""
    return f"{4 + 212 * share / 0.2:.1f}"


@pytest.mark.parametrize(
    ("controls", "bar", "ends", "words"),
    [
        ({"n_controls": 200, "n_patched_controls": 0}, "first_order", (0.03, 0.09),
         "closes 6.0% by first order; random sets of"),
        ({"n_controls": 200, "n_patched_controls": 20, "restored_control_low": 0.02,
          "restored_control_high": 0.07}, "restored", (0.05, 0.15),
         "restores 10.0%, carries 2.0%; random sets alike 2.0% to 7.0%"),
        ({"n_controls": 0, "n_patched_controls": 0}, "restored", (0.05, 0.15),
         "restores 10.0%, carries 2.0%; no random set to compare with"),
    ],
)  # fmt: skip
def test_a_bar_and_its_band_are_of_one_kind(
    controls: dict[str, float], bar: str, ends: tuple[float, float], words: str
) -> None:
    measured = MEASURED if controls["n_controls"] else {**MEASURED, "control_low": None}
    alike = {"p_value": 0.04} if bar == "restored" else {"control_magnitude": 0.5}
    drawn = str(effect_bar(CategoryEffect(**measured, **controls, **alike), 0.2))
    assert words in drawn
    assert f'class="{bar}"' in drawn
    assert ('class="carried"' in drawn) == (bar == "restored")
    assert f'x1="{x_of(ends[0])}" x2="{x_of(ends[1])}"' in drawn
