"""The change of behaviour next to the change of latents, and where the two disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from sqlalchemy.orm import Session

from labeler.report.model import SIGNIFICANT, CategoryRow, ChangeTable
from labeler.store.behaviour import ShownAnswer, classified_answers, newest_changes
from labeler.text import listed, one_line, plural, share_text
from taxonomy.counts import BehaviourChange, SignAgreement

if TYPE_CHECKING:
    from labeler.store.schema import CategoryBehaviour

MOST_EXAMPLES = 3
"""Prompts per category whose two answers are shown."""
Relation = Literal["agree", "contradict", "latents alone", "answers alone", "neither"]


@dataclass(frozen=True)
class AnswerPair:
    """A prompt on which one model's answer shows the behaviour and the other's does not."""

    prompt: str
    target: ShownAnswer
    reference: ShownAnswer


@dataclass(frozen=True)
class BehaviourRow:
    """One category: what its latents and what the answers say."""

    name: str
    latents: CategoryRow
    change: BehaviourChange
    examples: tuple[AnswerPair, ...] = ()

    @property
    def relation(self) -> Relation:
        """Which of the two changes are distinguishable from zero, and whether they agree."""
        latents, answers = self.latents.is_significant, self.change.verdict in SIGNIFICANT
        if latents and answers:
            return "agree" if self.latents.verdict == self.change.verdict else "contradict"
        if latents:
            return "latents alone"
        return "answers alone" if answers else "neither"


@dataclass(frozen=True)
class BehaviourResults:
    """The behaviours of one comparison."""

    rows: tuple[BehaviourRow, ...]
    agreement: SignAgreement
    run_id: int
    target: str
    reference: str
    n_prompts: int
    n_checked: int
    """Answers classified by a check."""
    n_judged: int
    """Answers classified by the judge."""
    n_unclassified: int


def read_behaviour(
    session: Session, comparison_id: int, rows: Sequence[CategoryRow]
) -> BehaviourResults | None:
    """The newest changes of behaviour of a comparison; None where its models answered nothing."""
    from taxonomy.behaviour_change import sign_agreement

    stored = newest_changes(session, comparison_id)
    by_slug = {row.category: row for row in rows}
    known = [each for each in stored if each.category in by_slug]
    if not known:
        return None
    first = known[0]
    answers = classified_answers(session, first.run_id, (first.target_model, first.reference_model))
    pairs = _pairs(answers, first)
    found = tuple(
        BehaviourRow(
            by_slug[each.category].name,
            by_slug[each.category],
            _change(each),
            tuple(pairs[each.category][:MOST_EXAMPLES]),
        )
        for each in known
    )
    decided = [each for each in answers if each.outcome in ("assigned", "none")]
    return BehaviourResults(
        rows=found,
        agreement=sign_agreement([(row.latents.sign, row.change.sign) for row in found]),
        run_id=first.run_id,
        target=first.target_model,
        reference=first.reference_model,
        n_prompts=len({each.prompt_id for each in answers}),
        n_checked=sum(each.classified_by == "check" for each in decided),
        n_judged=sum(each.classified_by == "judge" for each in decided),
        n_unclassified=len(answers) - len(decided),
    )


def _change(row: CategoryBehaviour) -> BehaviourChange:
    return BehaviourChange(
        **{each.name: getattr(row, each.name) for each in fields(BehaviourChange)}
    )


def _pairs(
    answers: Sequence[ShownAnswer], models: CategoryBehaviour
) -> dict[str, list[AnswerPair]]:
    """The pairs of first answers that differ, by category, in the order of the prompts."""
    by_prompt: dict[tuple[str, str], dict[str, ShownAnswer]] = defaultdict(dict)
    for each in answers:
        if each.sample == 0:
            by_prompt[each.category, each.prompt_id][each.model] = each
    pairs: dict[str, list[AnswerPair]] = defaultdict(list)
    for (category, _), by_model in by_prompt.items():
        target = by_model.get(models.target_model)
        reference = by_model.get(models.reference_model)
        if target and reference and {target.outcome, reference.outcome} == {"assigned", "none"}:
            pairs[category].append(AnswerPair(target.prompt, target, reference))
    return pairs


def behaviour_sentences(table: ChangeTable) -> tuple[str, ...]:
    """What the answers to held-out prompts say, and each disagreement with the latents."""
    results = table.behaviour
    if results is None:
        return ()
    changed = [row for row in results.rows if row.change.verdict in SIGNIFICANT]
    named = listed([f"{one_line(row.name)} ({_answers(row)})" for row in changed])
    verb = "changes" if len(changed) == 1 else "change"
    found = (
        f"{len(changed)} of {len(results.rows)} behaviours {verb}"
        if changed
        else (f"none of {plural(len(results.rows), 'behaviour')} is shown to change")
    )
    opening = f"Answers to {plural(results.n_prompts, 'held-out prompt')}: {found}"
    first = f"{opening}{': ' + named if changed else ''}. {_agreement(results.agreement)}"
    return (first, *(said for row in results.rows if (said := disagreement(row)) is not None))


def disagreement(row: BehaviourRow) -> str | None:
    """Where latents and answers say different things, in words; None where they do not."""
    name, says = one_line(row.name), f"latents say {row.latents.verdict}"
    if row.relation == "contradict":
        return f"{name}: {says} ({row.latents.shown_change}), answers say {_answers(row)}."
    if row.relation == "latents alone":
        return f"{name}: {says} ({row.latents.shown_change}), {_no_change(row.change)}."
    if row.relation == "answers alone":
        latents = row.latents
        seen = (
            "no latent has the category"
            if latents.is_empty
            else f"latents are not shown to change ({latents.shown_change})"
        )
        return f"{name}: answers say {_answers(row)}, {seen}."
    return None


def _answers(row: BehaviourRow) -> str:
    change = row.change
    return f"{change.verdict}, {_shares(change)}, {points_text(change)}"


def _no_change(change: BehaviourChange) -> str:
    if change.difference_points is None:
        return "no answer could be classified"
    if not change.n_more and not change.n_less:
        return f"answers do not change ({_shares(change)}, {points_text(change)})"
    return f"answers are not shown to change ({_shares(change)}, {points_text(change)})"


def _shares(change: BehaviourChange) -> str:
    return f"{share_text(change.reference_share)} to {share_text(change.target_share)}"


def points_text(change: BehaviourChange) -> str:
    """The difference in percentage points with its interval; empty where it is undefined."""
    if change.difference_points is None:
        return ""
    return (
        f"{change.difference_points:+.0f} points, 95% interval "
        f"{change.difference_low:+.0f} to {change.difference_high:+.0f}"
    )


def _agreement(agreement: SignAgreement) -> str:
    if agreement.interval is None:
        return "In no category do both latents and answers change, so their signs say nothing."
    low, high = agreement.interval.low, agreement.interval.high
    return (
        f"The signs of latents and answers agree in {agreement.n_agree} of "
        f"{plural(agreement.n_categories, 'category', 'categories')} in which both change "
        f"(95% interval {low:.0%} to {high:.0%})."
    )
