"""The sides that the rule takes in scrambled fine-tunes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from labeler.report.randomisation import RandomisedSides

SIDES = RandomisedSides(
    target=np.array([[0, 1], [2, 3]], dtype=np.int32),
    reference=np.array([[2, 3], [0, -1]], dtype=np.int32),
    shifts=np.zeros((3, 6), dtype=np.float32),
    labels=(),
    squares=np.array([1, 1, 4, 1, 100, 1], dtype=np.float32),
    scrambled=np.array(
        [[0.3, 0.2, 0.2, -0.1, 9.0, -9.0], [-0.1, np.nan, -0.4, -0.2, 9.0, 9.0]], dtype=np.float32
    ),
    is_by_score=True,
)


def test_largest_scores_of_each_sign_among_the_latents_that_some_draw_has() -> None:
    sides = SIDES.scrambled_sides()
    assert sides is not None
    target, reference = (side.tolist() for side in sides)
    assert target == [[2, 0], [-1, -1]]
    assert reference == [[3, -1], [2, 3]]


def test_other_rules_and_studies_without_scrambled_fine_tunes_have_none() -> None:
    assert replace(SIDES, is_by_score=False).scrambled_sides() is None
    assert replace(SIDES, scrambled=None).scrambled_sides() is None
