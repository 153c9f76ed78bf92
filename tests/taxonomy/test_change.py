from __future__ import annotations

import pytest

from taxonomy.change import CategoryCounts, change_statistics, percent_change, print_change
from taxonomy.counts import Side
from taxonomy.errors import InputError

TARGET_TOTAL, REFERENCE_TOTAL = 89, 112

PUBLISHED = [
    ("safety", 19, 18, "+32.8%", -25, 136, 0.36),
    ("multilingual", 8, 7, "+43.8%", -44, 269, 0.59),
    ("instruction-following", 2, 1, "+151.7%", -67, 1811, 0.59),
    ("factual-verification", 3, 2, "+88.8%", -62, 833, 0.66),
    ("hallucination", 1, 4, "-68.5%", -95, 105, 0.39),
    ("self-reference", 4, 9, "-44.1%", -81, 65, 0.39),
    ("query-classification", 1, 2, "-37.1%", -92, 375, 1.00),
    ("structured-output", 1, 2, "-37.1%", -92, 375, 1.00),
    ("code-generation", 4, 7, "-28.1%", -77, 123, 0.76),
    ("technical", 21, 32, "-17.4%", -49, 32, 0.52),
]


def counts_of(
    category: str,
    target: tuple[int, int],
    reference: tuple[int, int],
    level: int = 2,
) -> CategoryCounts:
    parent = None if level == 1 else "group"
    return CategoryCounts(category, level, parent, *target, *reference)


def published_counts(level_of_technical: int = 2) -> list[CategoryCounts]:
    return [
        counts_of(
            slug,
            (a, TARGET_TOTAL),
            (b, REFERENCE_TOTAL),
            level_of_technical if slug == "technical" else 2,
        )
        for slug, a, b, *_ in PUBLISHED
    ]


@pytest.mark.parametrize("row", PUBLISHED, ids=lambda row: row[0])
def test_published_percentages_come_with_their_interval_and_fisher_p(
    row: tuple[str, int, int, str, int, int, float],
) -> None:
    slug, a, b, printed, low, high, p_value = row
    (change,) = change_statistics([counts_of(slug, (a, TARGET_TOTAL), (b, REFERENCE_TOTAL))])
    assert change.printed_change == printed
    assert change.percent_change == pytest.approx(100 * ((a / 89) / (b / 112) - 1))
    assert change.ci_low is not None
    assert change.ci_high is not None
    assert round(change.ci_low) == low
    assert round(change.ci_high) == high
    assert round(change.p_value, 2) == p_value
    assert change.ci_low < 0 < change.ci_high


def test_none_of_the_published_changes_is_distinguishable_from_zero() -> None:
    changes = change_statistics(published_counts())
    assert round(min(change.q_value for change in changes), 2) == 0.94
    assert {change.verdict for change in changes} == {"no evidence", "too few to say"}
    too_few = {change.category for change in changes if change.verdict == "too few to say"}
    assert too_few == {"instruction-following", "query-classification", "structured-output"}


def test_each_level_is_a_family_of_its_own() -> None:
    changes = {row.category: row for row in change_statistics(published_counts(1))}
    assert changes["technical"].q_value == changes["technical"].p_value
    assert min(row.q_value for row in changes.values() if row.level == 2) == pytest.approx(
        0.6567616 * 9 / 6, abs=0.02
    )


def test_categories_nobody_has_do_not_weaken_the_others() -> None:
    strong = counts_of("strong", (30, 89), (5, 112))
    empty = [counts_of(f"empty-{i}", (0, 89), (0, 112)) for i in range(40)]
    alone = change_statistics([strong])[0]
    among = change_statistics([strong, *empty])
    assert among[0].q_value == alone.q_value == alone.p_value
    assert {row.verdict for row in among[1:]} == {"too few to say"}
    assert {row.q_value for row in among[1:]} == {1.0}
    assert {row.printed_change for row in among[1:]} == {""}


def test_a_large_change_gets_its_direction() -> None:
    up, down = change_statistics(
        [counts_of("more", (40, 89), (5, 112)), counts_of("less", (2, 89), (60, 112))]
    )
    assert (up.verdict, down.verdict) == ("up", "down")
    assert up.q_value < 0.05
    assert down.q_value < 0.05


def test_a_category_that_left_the_target_has_a_finite_upper_bound() -> None:
    (change,) = change_statistics([counts_of("gone", (0, 89), (4, 112))])
    assert change.percent_change == change.ci_low == -100.0
    assert change.ci_high == pytest.approx(18.8, abs=0.05)
    assert change.printed_change == "-100.0%"


def test_a_category_that_is_new_has_a_lower_bound_only() -> None:
    (change,) = change_statistics([counts_of("fresh", (3, 89), (0, 112))])
    assert change.percent_change is None
    assert change.ci_high is None
    assert change.ci_low == pytest.approx(-0.73, abs=0.005)
    assert change.printed_change == "new"
    assert change.difference_points == pytest.approx(100 * 3 / 89)


def test_a_side_without_latents_says_nothing() -> None:
    rows = [
        counts_of("no-target", (0, 0), (3, 112)),
        counts_of("no-reference", (3, 89), (0, 0)),
        counts_of("nothing", (0, 0), (0, 0)),
    ]
    for change in change_statistics(rows):
        assert change.percent_change is change.ci_low is change.ci_high is None
        assert change.difference_points is None
        assert change.printed_change == ""
        assert change.verdict == "too few to say"
        assert change.p_value == 1.0
    assert change_statistics(rows)[0].target_share is None
    assert change_statistics(rows)[0].reference_share == pytest.approx(3 / 112)


def test_no_categories_give_no_statistics() -> None:
    assert change_statistics([]) == []


def test_a_count_above_its_total_is_refused() -> None:
    with pytest.raises(InputError, match="90 of 89"):
        change_statistics([counts_of("safety", (90, 89), (1, 112))])


def test_a_category_counted_twice_is_refused() -> None:
    row = counts_of("safety", (9, 89), (1, 112))
    with pytest.raises(InputError, match="'safety' is counted twice"):
        change_statistics([row, row])


def test_equal_shares_print_a_plus_sign_and_no_negative_zero() -> None:
    assert print_change(Side(2, 10), Side(4, 20)) == "+0.0%"
    assert print_change(Side(49_999, 100_000), Side(50_000, 100_000)) == "+0.0%"
    assert percent_change(Side(2, 10), Side(4, 20)) == 0.0


@pytest.mark.parametrize(
    ("target", "reference", "situation"),
    [
        ((19, 89), (18, 112), "counted"),
        ((0, 0), (3, 112), "no latents on a side"),
        ((0, 89), (0, 112), "on neither side"),
        ((3, 89), (0, 112), "only on the target side"),
        ((0, 89), (4, 112), "only on the reference side"),
        ((89, 89), (4, 112), "every latent of a side"),
    ],
)
def test_where_formulas_break_down_the_situation_is_named(
    target: tuple[int, int], reference: tuple[int, int], situation: str
) -> None:
    (change,) = change_statistics([counts_of("safety", target, reference)])
    assert change.situation == situation


def test_the_smallest_change_that_could_have_been_found_at_the_papers_size() -> None:
    rows = {b: change_statistics([counts_of("x", (b, 89), (b, 112))])[0] for b in (1, 4, 9, 18, 32)}
    rises = {b: round(row.detectable_rise or 0) for b, row in rows.items()}
    falls = {b: row.detectable_fall for b, row in rows.items()}
    assert rises == {1: 655, 4: 215, 9: 138, 18: 82, 32: 53}
    assert falls[1] is falls[4] is None
    assert {b: round(falls[b] or 0) for b in (9, 18, 32)} == {9: -86, 18: -58, 32: -45}


def test_a_new_category_has_no_smallest_change() -> None:
    (change,) = change_statistics([counts_of("fresh", (3, 89), (0, 112))])
    assert change.detectable_rise is change.detectable_fall is None


def test_boschloo_is_an_option_and_named() -> None:
    (change,) = change_statistics([counts_of("safety", (19, 89), (18, 112))], test="boschloo")
    assert change.test == "boschloo"
    assert change.p_value == pytest.approx(0.36118, abs=1e-5)
    assert change.least_attainable_p < 0.05
    assert change_statistics([counts_of("safety", (19, 89), (18, 112))])[0].test == "fisher"


def test_unweighted_sides_are_as_effective_as_they_are_large() -> None:
    (change,) = change_statistics([counts_of("safety", (19, 89), (18, 112))])
    assert (change.target_effective, change.reference_effective) == (89, 112)
