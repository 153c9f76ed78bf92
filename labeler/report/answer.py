"""The answer of a comparison in sentences, its uncertainty, and what the conclusions survive."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from labeler.report.mean_shifts import alike_words, shift_claim, shift_sentence, shift_test
from labeler.report.model import CategoryRow, ChangeTable
from labeler.store.outcomes import BY_NAME, OF_ONE_REQUEST
from labeler.text import interval_text, listed, one_line, plural, probability_text
from taxonomy.counts import ALPHA

_MOST_NAMED = 5
_MOST_IN_CHECK = 4


@dataclass(frozen=True)
class Conclusion:
    """What the comparison says."""

    sentence: str
    """The answer."""
    detail: str
    """What it rests on."""


def answer_of(table: ChangeTable) -> Conclusion:
    """Which changes are distinguishable from zero, or that none is, and what that rests on."""
    tested = [row for row in table.rows if not row.is_empty]
    if not tested:
        return Conclusion(
            "No latent of this comparison has a category yet, so no change can be stated.",
            coverage_sentence(table),
        )
    significant = [row for row in tested if row.is_significant]
    claim, shifts = shift_claim(table), shift_sentence(table)
    counted = _some(significant, len(tested)) if significant else _none(tested)
    is_only_shifted = claim is not None and not significant
    sentence = f"{claim}. No change of counts is distinguishable." if is_only_shifted else counted
    opening = [shift_test(table), counted] if is_only_shifted else [shifts] if shifts else []
    detail = [
        *opening,
        *_seeds(table),
        *_together(table),
        *_strength(tested, significant),
        coverage_sentence(table),
    ]
    return Conclusion(sentence, " ".join(detail))


def global_p(table: ChangeTable) -> float | None:
    """Whether the two sides differ in their categories at all; None where no test says so.

    The smallest family p where the sides were drawn, else p of the permutation chi-square test over
    the leaves of the taxonomy.
    """
    family = [row.family_p for row in table.rows if row.family_p is not None]
    if family:
        return min(family)
    if table.n_seeds > 1:
        # The counts of several seeds are no independent latents.
        return None
    from taxonomy.intervals import global_test, partition_counts

    target, reference = partition_counts(table.rows)
    if not sum(target) or not sum(reference):
        return None
    return global_test(target, reference, seed=0).p_value


def _seeds(table: ChangeTable) -> list[str]:
    if table.n_seeds == 1:
        return []
    return [
        f"All of this is over {table.n_seeds} training seeds of the crosscoder; the variance "
        "between them is in the intervals and p of counts and of mean shifts against the rest."
    ]


def _together(table: ChangeTable) -> list[str]:
    p_value = global_p(table)
    if p_value is None:
        return []
    test = "randomisation over documents" if table.has_family_p else "permutation test"
    found = "differ" if p_value < ALPHA else "are not shown to differ"
    return [
        f"Taken together, the two sides' categories {found} "
        f"({test}, p = {probability_text(p_value)})."
    ]


def _none(tested: list[CategoryRow]) -> str:
    row = min(tested, key=lambda row: (row.q_value, row.p_value))
    found = ", ".join(
        part
        for part in (
            row.printed_change,
            f"95% interval {interval_text(row.ci_low, row.ci_high)}"
            if row.ci_low is not None
            else "",
        )
        if part
    )
    strongest = f"{one_line(row.name)} ({found}), has q = {probability_text(row.q_value)}"
    if len(tested) == 1:
        return f"The one change is not distinguishable from zero: {strongest}."
    opening = f"None of the {len(tested)} changes is distinguishable from zero"
    return f"{opening}: the strongest, {strongest}."


def _some(significant: list[CategoryRow], n_tested: int) -> str:
    named = [
        f"{one_line(row.name)} ({row.verdict}, {row.printed_change}, "
        f"95% interval {interval_text(row.ci_low, row.ci_high)}"
        f"{alike_words(row, row.n_seeds_alike)})"
        for row in sorted(significant, key=lambda row: (row.q_value, row.category))
    ]
    verb = "is" if len(significant) == 1 else "are"
    return (
        f"{len(significant)} of the {plural(n_tested, 'change')} {verb} distinguishable from "
        f"zero: {listed(named, _MOST_NAMED)}."
    )


def _strength(tested: list[CategoryRow], significant: list[CategoryRow]) -> list[str]:
    few = sum(row.verdict == "too few to say" for row in tested)
    parts = []
    if not significant:
        parts.append(f"A change counts where q lies below {ALPHA}.")
    if few:
        parts.append(
            f"For {few} of them there are too few latents: no outcome with such counts could "
            "have reached significance."
        )
    return parts


def coverage_sentence(table: ChangeTable) -> str:
    """How many latents of each side are behind the shares, and how many the judge let down."""
    sides = [
        f"{side.labelled:,} of {side.isolated:,} {name} latents"
        for side, name in zip(table.coverage, _side_names(table), strict=True)
    ]
    of_seed = " of the first seed" if table.n_seeds > 1 else ""
    sentences = [f"{' and '.join(one_line(side) for side in sides)}{of_seed} are labelled."]
    for name in OF_ONE_REQUEST:
        target, reference = (getattr(side, name) for side in table.coverage)
        if target or reference:
            sentences.append(
                f"{BY_NAME[name].title}: {target:,} {one_line(table.target)} and {reference:,} "
                f"{one_line(table.reference)} latents."
            )
    return " ".join(sentences)


def _side_names(table: ChangeTable) -> tuple[str, str]:
    words = table.basis.side_words
    if words is None:
        return table.target, table.reference
    if words[0] != words[1]:
        return words
    return f"{words[0]} {table.target}", f"{words[1]} {table.reference}"


def computed_sentence(table: ChangeTable) -> str:
    """When the numbers were computed, and where one learns whether labels changed since."""
    if table.computed_at is None:
        return "Not computed yet."
    return (
        f"Computed {table.computed_at:%Y-%m-%d %H:%M:%S} UTC by run {table.report_run_id} from the "
        "labels of that moment; `difflens status` says whether labels changed since."
    )


def planted_sentence(table: ChangeTable) -> str | None:
    """How many planted directions the point estimates have; None where none was planted."""
    if not table.planted:
        return None
    hits = sum(check.has_sign for check in table.planted)
    checks = ", ".join(
        f"{check.row.category} {check.direction} "
        f"({check.row.printed_change or 'no latents'}: {'yes' if check.has_sign else 'no'})"
        for check in table.planted
    )
    return (
        f"Planted directions: {hits} of {len(table.planted)} point estimates have the planted "
        f"sign: {one_line(checks)}.{_planted_shifts(table)}"
    )


def _planted_shifts(table: ChangeTable) -> str:
    known = [check for check in table.planted if check.row.called_shift is not None]
    if not known:
        return ""
    found = [check for check in known if check.has_shift_sign]
    called = [check for check in found if (check.row.called_shift_q or 0.0) < ALPHA]
    return (
        f" So have {len(found)} of {len(known)} strength shifts, "
        f"{len(called)} of them with q < {ALPHA:g}."
    )


@dataclass(frozen=True)
class Checks:
    """The checks of one comparison, as a report stored them; slugs throughout."""

    refusal: str | None
    """Why the judge's errors were not taken out; None where they were."""
    reviewed: tuple[int, int]
    """Target, reference: latents reviewed blind from a random draw."""
    is_whole: tuple[bool, bool]
    corrected_up: tuple[str, ...]
    """Categories whose corrected change is distinguishable from zero, q < 0.05."""
    corrected_down: tuple[str, ...]
    errs_unlike: tuple[str, ...]
    """Categories in which the judge errs differently on the two sides, q < 0.05."""
    unstable: tuple[str, ...]
    """The sign turns at a stricter threshold."""
    n_swept: int
    """Categories with enough latents at stricter thresholds to tell."""
    turning: tuple[str, ...]
    """The sign turns when latents are counted in another way."""
    n_ways: int
    sizes: tuple[int, int] | None = None
    """Fewest and most latents per side of the sweep; None where a threshold was swept."""


def check_sentences(checks: Checks) -> tuple[str, ...]:
    """One sentence a check; none for a check that had nothing to look at."""
    found = [_judge_error(checks)]
    if checks.n_swept:
        found.append(
            _turned(
                checks.unstable,
                checks.n_swept,
                _sweep_words(checks.sizes),
            )
        )
    if checks.n_ways > 1:
        ways = f"Counted in {checks.n_ways} ways (labels, weights, denominators)"
        found.append(
            f"{ways}, {_signs(checks.turning)}." if checks.turning else f"{ways}, no sign turns."
        )
    return tuple(found)


def _sweep_words(sizes: tuple[int, int] | None) -> str:
    if sizes is None:
        return "As the isolation gets stricter"
    return f"With {sizes[0]} to {sizes[1]} latents per side"


def _turned(categories: Sequence[str], total: int, opening: str) -> str:
    if not categories:
        return f"{opening}, no sign of the {plural(total, 'change')} with enough latents turns."
    return f"{opening}, {_signs(categories)}: unstable."


def _signs(categories: Sequence[str]) -> str:
    verb = "sign" if len(categories) == 1 else "signs"
    return f"the {verb} of {_named(categories)} {'turns' if len(categories) == 1 else 'turn'}"


def _named(categories: Sequence[str]) -> str:
    return listed([one_line(category) for category in categories], _MOST_IN_CHECK)


def _judge_error(checks: Checks) -> str:
    if checks.refusal is not None:
        return f"The judge's errors are not taken out ({one_line(checks.refusal)})."
    if all(checks.is_whole):
        basis = "Every latent is reviewed, so that no judge error is left"
    else:
        target, reference = checks.reviewed
        basis = f"Without the judge's errors (blind random reviews: {target} and {reference})"
    parts = [
        f"{_named(categories)} {verb} {direction}"
        for categories, direction in ((checks.corrected_up, "up"), (checks.corrected_down, "down"))
        if categories
        for verb in ("is" if len(categories) == 1 else "are",)
    ]
    said = f"{basis}: {listed(parts) or 'no change is distinguishable from zero'}."
    if checks.errs_unlike:
        said += f" It errs unlike on the two sides in {_named(checks.errs_unlike)}."
    return said


@dataclass(frozen=True)
class CategorySensitivity:
    """One category over all ways of counting it."""

    category: str
    name: str
    level: int
    rows: tuple[CategoryRow, ...]
    """Ways in which a side has a latent of the category, the leading one first."""
    n_same_sign: int
    """Ways, the leading one among them, whose point estimate has its sign."""
    lowest: float | None
    """Smallest percentage change; None = undefined in every way."""
    highest: float | None

    @property
    def main(self) -> CategoryRow:
        """The way of counting that the report leads with."""
        return self.rows[0]

    @property
    def turns(self) -> bool:
        """Whether some way of counting has the other sign."""
        return self.main.sign != 0 and any(row.sign == -self.main.sign for row in self.rows)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """The verdicts, without repeats."""
        return tuple(dict.fromkeys(row.verdict for row in self.rows))


def sensitivity_of(
    main: Sequence[CategoryRow], others: Sequence[CategoryRow]
) -> tuple[CategorySensitivity, ...]:
    """The categories that some latent has, in the order of the leading rows."""
    ways: dict[str, list[CategoryRow]] = defaultdict(list)
    for row in others:
        if not row.is_empty:
            ways[row.category].append(row)
    return tuple(
        _sensitivity(row, ways[row.category])
        for row in main
        if not row.is_empty or ways[row.category]
    )


def _sensitivity(main: CategoryRow, others: Sequence[CategoryRow]) -> CategorySensitivity:
    rows = (main, *others)
    changes = [row.percent_change for row in rows if row.percent_change is not None]
    return CategorySensitivity(
        category=main.category,
        name=main.name,
        level=main.level,
        rows=rows,
        n_same_sign=sum(row.sign == main.sign for row in rows),
        lowest=min(changes, default=None),
        highest=max(changes, default=None),
    )
