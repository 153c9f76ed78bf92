from __future__ import annotations

import numpy as np
import pytest

from taxonomy.counts import Side
from taxonomy.errors import InputError
from taxonomy.intervals import wilson_interval
from taxonomy.judge_error import (
    LEAST_REVIEWED,
    JudgeErrors,
    SideAnswers,
    corrected_ratio,
    corrected_share,
    equal_error_p,
    judge_errors,
    refusal_of,
    rogan_gladen,
)


def answers_of(
    judge: np.ndarray, human: np.ndarray, audited: np.ndarray, probability: np.ndarray | None = None
) -> SideAnswers:
    everything = np.ones(len(judge), dtype=np.bool_)
    return SideAnswers(
        judge, everything, human, everything, audited, audited,
        np.full(len(judge), 0.5) if probability is None else probability,
    )  # fmt: skip


def simulated(
    generator: np.random.Generator,
    share: float,
    n_latents: int,
    n_reviewed: int,
    sensitivity: float = 0.85,
    specificity: float = 0.97,
) -> SideAnswers:
    human = generator.random(n_latents) < share
    judge = np.where(
        human,
        generator.random(n_latents) < sensitivity,
        generator.random(n_latents) >= specificity,
    )
    audited = np.zeros(n_latents, dtype=np.bool_)
    audited[:n_reviewed] = True
    return answers_of(judge, human, audited)


def table_answers(
    both: int, judge_only: int, human_only: int, neither: int, rest: tuple[int, int]
) -> SideAnswers:
    """Reviewed latents by cell, then unreviewed ones: (in the judge's category, outside it)."""
    judge = [1] * (both + judge_only) + [0] * (human_only + neither) + [1] * rest[0] + [0] * rest[1]
    human = [1] * both + [0] * judge_only + [1] * human_only + [0] * (neither + sum(rest))
    n_reviewed = both + judge_only + human_only + neither
    audited = np.arange(len(judge)) < n_reviewed
    return answers_of(np.array(judge, bool), np.array(human, bool), audited)


def test_the_estimate_is_that_of_post_stratified_reviews() -> None:
    # Binary Y and J: the regression estimator equals P(J) PPV + P(not J) (1 - NPV), but for the
    # pseudo latent in lambda.
    answers = table_answers(16, 4, 2, 78, (100, 300))
    share = corrected_share(answers)
    stratified = (120 / 500) * 16 / 20 + (380 / 500) * 2 / 80
    assert share.share == pytest.approx(stratified, abs=0.001)
    assert share.judge_share == 120 / 500
    assert share.method == "ppi++"
    assert share.low < share.share < share.high


def test_fewer_than_sixty_reviewed_are_refused_by_number() -> None:
    answers = simulated(np.random.default_rng(0), 0.1, 300, LEAST_REVIEWED - 1)
    refusal = refusal_of(answers)
    assert refusal is not None
    assert "59 of 300" in refusal
    assert "60 are needed" in refusal
    with pytest.raises(InputError, match="59 of 300"):
        corrected_share(answers)
    assert refusal_of(simulated(np.random.default_rng(0), 0.1, 300, 60)) is None


def test_a_wholly_reviewed_side_is_counted_however_small() -> None:
    answers = table_answers(4, 3, 2, 31, (0, 0))
    share = corrected_share(answers)
    assert share.method == "wholly reviewed"
    assert share.share == 6 / 40
    wilson = wilson_interval(Side(6, 40))
    assert wilson is not None
    assert (share.low, share.high) == (wilson.low, wilson.high)
    exact = corrected_share(answers, "finite_population")
    assert exact.low == exact.share == exact.high == 6 / 40


def test_the_finite_population_correction_shrinks_the_interval_as_reviews_fill_the_side() -> None:
    generator = np.random.default_rng(5)
    widths = []
    for n_reviewed in (100, 200, 290):
        answers = simulated(generator, 0.2, 300, n_reviewed)
        share = corrected_share(answers, "finite_population")
        widths.append(share.high - share.low)
    assert widths[0] > widths[1] > widths[2]
    assert widths[2] < 0.25 * widths[0]


def test_a_sample_without_errors_still_has_a_variance_of_them() -> None:
    answers = table_answers(10, 0, 0, 90, (100, 800))
    share = corrected_share(answers, "finite_population")
    assert share.share == pytest.approx(110 / 1000, abs=0.002)
    assert share.high - share.low > 0.01


def test_a_useless_judge_gets_no_weight() -> None:
    generator = np.random.default_rng(8)
    human = generator.random(400) < 0.3
    judge = generator.random(400) < 0.9
    audited = np.arange(400) < 200
    share = corrected_share(answers_of(judge, human, audited))
    assert share.weight_of_judge < 0.2
    assert share.share == pytest.approx(human[:200].mean(), abs=0.02)


def test_unequal_inclusion_is_undone_by_weights() -> None:
    generator = np.random.default_rng(4)
    estimates = []
    for _ in range(300):
        human = generator.random(1000) < 0.2
        judge = human ^ (generator.random(1000) < 0.15)
        probability = np.where(judge, 0.3, 0.1)
        audited = generator.random(1000) < probability
        estimates.append(corrected_share(answers_of(judge, human, audited, probability)).share)
    assert np.mean(estimates) == pytest.approx(0.2, abs=0.006)


def test_a_denominator_the_judge_gets_wrong_is_corrected_too() -> None:
    generator = np.random.default_rng(6)
    estimates = []
    for _ in range(200):
        counts = generator.random(600) < 0.8
        human = counts & (generator.random(600) < 0.25)
        judge_counts = counts ^ (generator.random(600) < 0.1)
        judge = human & judge_counts
        audited = np.arange(600) < 150
        answers = SideAnswers(
            judge, judge_counts, human, counts, audited, audited, np.full(600, 0.25)
        )
        estimates.append(corrected_share(answers).share)
    assert np.mean(estimates) == pytest.approx(0.25, abs=0.006)


def test_a_share_of_zero_has_a_ratio_of_zero_or_none() -> None:
    empty = corrected_share(table_answers(0, 0, 0, 40, (0, 0)))
    some = corrected_share(table_answers(8, 0, 0, 32, (0, 0)))
    assert corrected_ratio(empty, some).ratio == 0
    assert corrected_ratio(empty, some).interval.low == 0
    assert corrected_ratio(some, empty).ratio is None
    assert np.isinf(corrected_ratio(some, empty).interval.high)


def test_corrected_intervals_cover_where_the_naive_one_misses() -> None:
    generator = np.random.default_rng(2026)
    repeats = 500
    change = share = naive = 0
    for _ in range(repeats):
        target = simulated(generator, 0.25, 500, 100, 0.9, 0.95)
        reference = simulated(generator, 0.08, 500, 100, 0.9, 0.95)
        first, second = corrected_share(target), corrected_share(reference)
        interval = corrected_ratio(first, second).interval
        change += interval.low <= 0.25 / 0.08 <= interval.high
        share += first.low <= 0.25 <= first.high
        plain = wilson_interval(Side(int(reference.judge.sum()), 500))
        assert plain is not None
        naive += plain.low <= 0.08 <= plain.high
    assert naive / repeats < 0.3
    # A binomial share of 500 at 0.95 lies within 0.925 and 0.975 in 99 of 100 draws.
    assert 0.925 <= change / repeats <= 0.98
    assert 0.925 <= share / repeats <= 0.98


def test_a_judge_that_errs_on_one_side_alone_is_noticed() -> None:
    alike = JudgeErrors(Side(17, 20), Side(78, 80))
    overcalling = JudgeErrors(Side(17, 20), Side(60, 80))
    assert equal_error_p(alike, alike) == 1.0
    assert equal_error_p(alike, overcalling) < 0.001
    assert equal_error_p(JudgeErrors(Side(0, 0), Side(5, 5)), alike) == 1.0


def test_errors_are_counted_in_the_sample_alone() -> None:
    errors = judge_errors(table_answers(16, 4, 2, 78, (100, 300)))
    assert (errors.hits, errors.rejections) == (Side(16, 18), Side(78, 82))
    assert errors.sensitivity == 16 / 18
    assert errors.specificity == 78 / 82


def test_rogan_gladen_undoes_known_error_rates() -> None:
    # A share of 0.10 seen through sensitivity 0.9 and specificity 0.95 looks like 0.135.
    check = rogan_gladen(Side(135, 1000), JudgeErrors(Side(90, 100), Side(95, 100)))
    assert check.share == pytest.approx(0.10)
    assert check.low is not None
    assert check.high is not None
    assert check.low < 0.10 < check.high


@pytest.mark.parametrize(
    ("errors", "note"),
    [
        (JudgeErrors(Side(0, 0), Side(9, 10)), "no reviewed latent of one kind"),
        (JudgeErrors(Side(1, 10), Side(5, 10)), "no better than chance"),
    ],
)
def test_rogan_gladen_says_why_it_cannot(errors: JudgeErrors, note: str) -> None:
    check = rogan_gladen(Side(10, 100), errors)
    assert check.share is None
    assert note in check.note


def test_an_audited_latent_needs_a_decision() -> None:
    flags = np.ones(3, dtype=np.bool_)
    with pytest.raises(InputError, match="decision"):
        SideAnswers(flags, flags, flags, flags, ~flags, flags, np.ones(3))
