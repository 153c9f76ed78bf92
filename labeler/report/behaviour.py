"""The change of behaviour next to the change of latents, and where the two disagree."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Literal

from sqlalchemy.orm import Session

from labeler.report.model import SIGNIFICANT, CategoryRow, ChangeTable
from labeler.store.behaviour import ShownAnswer, classified_answers, newest_changes
from labeler.text import listed, one_line, plural, probability_text, share_text
from taxonomy.counts import ALPHA, BehaviourChange, SignAgreement

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
    def latents_say(self) -> str | None:
        """`up` or `down` where the counts are distinguishable from zero, else the strength."""
        if self.latents.is_significant:
            return self.latents.verdict
        q_value = self.latents.called_shift_q
        if q_value is None or q_value >= ALPHA:
            return None
        return "up" if self.shift_sign > 0 else "down"

    @property
    def shift_sign(self) -> int:
        """Sign of the strength shift, see `called_shift`; 0 where it is unknown."""
        shift = self.latents.called_shift or 0.0
        return (shift > 0) - (shift < 0)

    @property
    def relation(self) -> Relation:
        """Which of the two changes are distinguishable from zero, and whether they agree."""
        latents, answers = self.latents_say, self.change.verdict in SIGNIFICANT
        if latents and answers:
            return "agree" if latents == self.change.verdict else "contradict"
        if latents:
            return "latents alone"
        return "answers alone" if answers else "neither"


@dataclass(frozen=True)
class BehaviourResults:
    """The behaviours of one comparison."""

    rows: tuple[BehaviourRow, ...]
    """Categories that an answer can show."""
    agreement: SignAgreement
    """Of counts and answers."""
    shift_agreement: SignAgreement
    """Of mean strength shifts and answers."""
    run_id: int
    target: str
    reference: str
    n_prompts: int
    n_checked: int
    """Answers classified by a check."""
    n_judged: int
    """Answers classified by the judge."""
    n_unclassified: int
    groups: tuple[BehaviourRow, ...] = ()
    """Groups of them: an answer shows one if it shows any of its categories."""

    def change_of(self, category: str) -> BehaviourChange | None:
        """The change of a category or group; None where no prompt can show it."""
        found = (row.change for row in (*self.rows, *self.groups))
        return next((change for change in found if change.category == category), None)


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
    parents = {row.parent for row in rows}
    every = [
        BehaviourRow(
            by_slug[each.category].name,
            by_slug[each.category],
            _change(each),
            tuple(pairs[each.category][:MOST_EXAMPLES]),
        )
        for each in known
    ]
    found = tuple(row for row in every if row.latents.category not in parents)
    decided = [each for each in answers if each.outcome in ("assigned", "none")]
    return BehaviourResults(
        rows=found,
        agreement=sign_agreement([(row.latents.sign, row.change.sign) for row in found]),
        shift_agreement=sign_agreement([(row.shift_sign, row.change.sign) for row in found]),
        run_id=first.run_id,
        target=first.target_model,
        reference=first.reference_model,
        n_prompts=len({each.prompt_id for each in answers}),
        n_checked=sum(each.classified_by == "check" for each in decided),
        n_judged=sum(each.classified_by == "judge" for each in decided),
        n_unclassified=len(answers) - len(decided),
        groups=tuple(row for row in every if row.latents.category in parents),
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
    named = listed([f"{one_line(row.name)} ({row.change.verdict})" for row in changed])
    n_rows = plural(len(results.rows), "behaviour")
    found = (
        f"{len(changed)} of {n_rows} {'changes' if len(changed) == 1 else 'change'}: {named}"
        if changed
        else f"none of {n_rows} is shown to change"
    )
    first = f"Answers to {plural(results.n_prompts, 'held-out prompt')}: {found}."
    return (
        f"{first} {_agreements(results)}",
        *(said for row in results.rows if (said := disagreement(row)) is not None),
    )


def disagreement(row: BehaviourRow) -> str | None:
    """Where latents and answers say different things, in words; None where they do not."""
    name, latents = one_line(row.name), f"latents say {row.latents_say} ({_latent_change(row)})"
    if row.relation == "contradict":
        return f"{name}: {latents}, answers say {_answers(row)}."
    if row.relation == "latents alone":
        return f"{name}: {latents}, {_no_change(row.change)}."
    if row.relation == "answers alone":
        seen = (
            "no latent has the category"
            if row.latents.is_empty
            else f"latents are not shown to change ({_latent_change(row)})"
        )
        return f"{name}: answers say {_answers(row)}, {seen}."
    return None


def _latent_change(row: BehaviourRow) -> str:
    """The change of the counts, and the strength shift where it says what they do not."""
    shift = row.latents.shown_shift
    if row.latents.is_significant or shift is None:
        return row.latents.shown_change
    return f"{row.latents.shown_change}, strength shift {shift:+.3f}"


def _answers(row: BehaviourRow) -> str:
    return f"{row.change.verdict} ({_numbers(row.change)})"


def _no_change(change: BehaviourChange) -> str:
    if change.difference_points is None:
        return "no answer could be classified"
    same = not change.n_more and not change.n_less
    return f"answers {'do not' if same else 'are not shown to'} change ({_numbers(change)})"


def _numbers(change: BehaviourChange) -> str:
    return (
        f"{share_text(change.reference_share)} to {share_text(change.target_share)}, "
        f"{change.difference_points:+.0f} points, 95% interval "
        f"{change.difference_low:+.0f} to {change.difference_high:+.0f}, "
        f"q = {probability_text(change.q_value)}"
    )


def _agreements(results: BehaviourResults) -> str:
    """In how many categories the signs agree, by counts and by strengths."""
    said = [
        f"{agreement.n_agree} of {agreement.n_categories} by {how} "
        f"(95% interval {agreement.interval.low:.0%} to {agreement.interval.high:.0%})"
        for agreement, how in (
            (results.agreement, "the latents' counts"),
            (results.shift_agreement, "their mean strength shifts"),
        )
        if agreement.interval is not None
    ]
    if not said:
        return "In no category do both latents and answers change, so their signs say nothing."
    return (
        "Categories in which latents and answers change in the same direction, whether or not a "
        f"change is distinguishable from chance: {listed(said)}."
    )
