"""The answer of a comparison in a sentence, with its uncertainty."""

from __future__ import annotations

from dataclasses import dataclass

from labeler.report.model import ChangeTable
from labeler.report.rows import CategoryRow
from labeler.store.outcomes import BY_NAME, OF_ONE_REQUEST
from labeler.text import interval_text, listed, one_line, plural, probability_text
from taxonomy.settings import ALPHA

_MOST_NAMED = 5


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
    sentence = _some(significant, len(tested)) if significant else _none(tested)
    detail = [*_together(table), *_strength(tested, significant), coverage_sentence(table)]
    return Conclusion(sentence, " ".join(detail))


def global_p(table: ChangeTable) -> float | None:
    """p of the permutation chi-square test over the leaves of the taxonomy; None without latents.

    The question before all others: do the two sides differ in their categories at all?
    """
    from taxonomy.exact_tests import global_test, partition_counts

    target, reference = partition_counts(table.rows)
    if not sum(target) or not sum(reference):
        return None
    return global_test(target, reference, seed=0).p_value


def _together(table: ChangeTable) -> list[str]:
    p_value = global_p(table)
    if p_value is None:
        return []
    found = "differ" if p_value < ALPHA else "are not shown to differ"
    return [
        f"Taken together, the two sides' categories {found} "
        f"(permutation test, p = {probability_text(p_value)})."
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
        f"95% interval {interval_text(row.ci_low, row.ci_high)})"
        for row in sorted(significant, key=lambda row: (row.q_value, row.category))
    ]
    if len(named) > _MOST_NAMED:
        named = [*named[:_MOST_NAMED], f"{len(named) - _MOST_NAMED} more"]
    verb = "is" if len(significant) == 1 else "are"
    return (
        f"{len(significant)} of the {plural(n_tested, 'change')} {verb} distinguishable from "
        f"zero: {listed(named)}."
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
        f"{side.labelled:,} of {side.isolated:,} {label} latents"
        for side, label in zip(table.coverage, (table.target, table.reference), strict=True)
    ]
    sentences = [f"{' and '.join(one_line(side) for side in sides)} are labelled."]
    for name in OF_ONE_REQUEST:
        target, reference = (getattr(side, name) for side in table.coverage)
        if target or reference:
            sentences.append(
                f"{BY_NAME[name].title}: {target:,} {one_line(table.target)} and {reference:,} "
                f"{one_line(table.reference)} latents."
            )
    return " ".join(sentences)


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
        f"sign: {one_line(checks)}."
    )
