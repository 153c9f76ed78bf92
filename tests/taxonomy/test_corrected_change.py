from __future__ import annotations

import numpy as np
import pytest

from taxonomy.corrected_change import CategoryKey, CountedLabel, JudgedLatent, correct_changes

KEYS = (CategoryKey("behaviour", 1, None), CategoryKey("safety", 2, "behaviour"))
SAFETY = CountedLabel(frozenset({"safety", "behaviour"}), True)
NONE = CountedLabel(frozenset(), True)
BLANK = CountedLabel(frozenset(), False)


def side(
    generator: np.random.Generator, share: float, n_latents: int, n_audited: int
) -> list[JudgedLatent]:
    latents = []
    for index in range(n_latents):
        human = SAFETY if generator.random() < share else NONE
        judge = human if generator.random() < 0.9 else NONE
        audited = index < n_audited
        latents.append(JudgedLatent(judge, human if audited else None, audited))
    return latents


def test_every_seen_category_is_corrected_with_its_parent() -> None:
    generator = np.random.default_rng(1)
    correction = correct_changes(
        [*KEYS, CategoryKey("unseen", 2, "behaviour")],
        side(generator, 0.4, 300, 150),
        side(generator, 0.1, 300, 150),
    )
    assert correction.refusal is None
    assert correction.n_reviewed == (150, 150)
    parent, leaf = correction.rows
    assert (parent.category, leaf.category) == ("behaviour", "safety")
    assert parent.target == leaf.target
    assert leaf.percent_change is not None
    assert leaf.ci_low is not None
    assert leaf.ci_low > 0
    assert leaf.q_value == leaf.p_value < 0.001
    assert leaf.equal_error_p > 0.05


def test_a_side_with_too_few_reviews_stops_the_correction_and_is_named() -> None:
    generator = np.random.default_rng(1)
    correction = correct_changes(KEYS, side(generator, 0.4, 300, 150), side(generator, 0.1, 90, 20))
    assert correction.rows == ()
    assert correction.refusal is not None
    assert correction.refusal.startswith("reference side: 20 of 90")
    assert "target" not in correction.refusal


def test_two_wholly_reviewed_sides_are_the_score_interval_of_the_reviewers_counts() -> None:
    target = [JudgedLatent(NONE, SAFETY)] * 19 + [JudgedLatent(SAFETY, NONE)] * 70
    reference = [JudgedLatent(SAFETY, SAFETY)] * 18 + [JudgedLatent(SAFETY, NONE)] * 94
    correction = correct_changes(KEYS, target, reference)
    assert correction.is_whole == (True, True)
    row = correction.rows[1]
    assert row.percent_change == pytest.approx(100 * ((19 / 89) / (18 / 112) - 1))
    assert (round(row.ci_low or 0), round(row.ci_high or 0)) == (-25, 136)
    assert row.target.share == 19 / 89
    assert row.target_errors.sensitivity == 0.0


def test_decisions_outside_the_random_sample_change_nothing() -> None:
    generator = np.random.default_rng(9)
    target, reference = side(generator, 0.3, 200, 80), side(generator, 0.2, 200, 80)
    before = correct_changes(KEYS, target, reference)
    more = [
        latent if latent.human else JudgedLatent(latent.judge, SAFETY) for latent in target[:150]
    ] + target[150:]
    assert correct_changes(KEYS, more, reference) == before


def test_an_uninterpretable_latent_is_outside_the_denominator() -> None:
    target = [JudgedLatent(SAFETY, SAFETY)] * 10 + [JudgedLatent(NONE, BLANK)] * 10
    reference = [JudgedLatent(SAFETY, SAFETY)] * 5 + [JudgedLatent(NONE, NONE)] * 5
    row = correct_changes(KEYS, target, reference).rows[1]
    assert row.target.share == 1.0
    assert row.reference.share == 0.5


def test_a_comparison_without_latents_is_refused() -> None:
    correction = correct_changes(KEYS, [], [])
    assert correction.rows == ()
    assert correction.refusal is not None
