"""Runs every check of one comparison: other ways of counting, judge error, stricter isolation."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sqlalchemy import func, select, text
from sqlalchemy.orm import Session

from crosscoder.config import SIDES, SideName
from crosscoder.isolation_rules import RULES, stored_rule
from labeler.labeling.trials import paired_difference
from labeler.report.answer import sensitivity_of
from labeler.report.comparisons import BOTH, ActiveComparison, LatentSetView, Members, read_members
from labeler.report.experiments import latent_sides, read_experiments
from labeler.report.model import (
    CategoryRow,
    ControlRate,
    Robustness,
    ScoreRow,
    ValidationResults,
    read_agreement,
)
from labeler.report.randomisation import PER_SIDE, RandomisedSides
from labeler.report.statistics import CategoryNode, compute_variants
from labeler.store.comparisons import read_null_runs
from labeler.store.outcomes import LABELLED
from labeler.store.schema import Comparison, Explanation, ExplanationScore
from labeler.store.statements import newest_explanation_ids
from labeler.store.views.base import DECISION, MEMBER, STANDING, VERDICT, with_tables
from taxonomy.counts import ALPHA

if TYPE_CHECKING:
    from taxonomy.counts import ExactTest
    from taxonomy.robustness import CountedLabel, JudgedLatent, SweptCategory

_RATES = text(
    "SELECT category, control_count, control_total FROM v_control_category"
    " WHERE comparison = :comparison ORDER BY level, category"
)


@dataclass(frozen=True)
class _Scored:
    """The newest score of one explanation."""

    side: str
    latent_id: int
    method: str
    is_shuffled: bool
    balanced_accuracy: float | None
    n_asked: int
    n_parsed: int


def read_scores(session: Session, comparison: Comparison, judge_id: int) -> tuple[ScoreRow, ...]:
    """Scores of a judge's explanations by method, for each side and for both together.

    Means are over latents that have both scores, own and shuffled, so that they compare like with
    like; where nothing was shuffled they are over all latents with a score.
    """
    scored = _scored(session, comparison, judge_id)
    methods = sorted({row.method for row in scored})
    rows = []
    for method in methods:
        of_method = [row for row in scored if row.method == method]
        for side in ("target", "reference", BOTH):
            chosen = [row for row in of_method if side in (row.side, BOTH)]
            if chosen:
                rows.append(_row(side, method, chosen))
    return tuple(rows)


def read_control_rates(session: Session, comparison: str) -> tuple[ControlRate, ...]:
    """How many of the control latents have each category; empty where none is labelled."""
    found = session.execute(_RATES, {"comparison": comparison})
    return tuple(ControlRate(row.category, row.control_count, row.control_total) for row in found)


def _row(side: str, method: str, rows: Sequence[_Scored]) -> ScoreRow:
    # A latent of both sides has one score, whichever side it is read from.
    scored = {(row.latent_id, row.is_shuffled): row for row in rows}.values()
    own = {row.latent_id: row.balanced_accuracy for row in scored if not row.is_shuffled}
    shuffled = {row.latent_id: row.balanced_accuracy for row in scored if row.is_shuffled}
    pairs = [
        (value, control)
        for latent_id, value in own.items()
        if value is not None and (control := shuffled.get(latent_id)) is not None
    ]
    found = paired_difference([own for own, _ in pairs], [control for _, control in pairs])
    alone = [value for value in own.values() if value is not None]
    mean = found.own if pairs or not alone else sum(alone) / len(alone)
    return ScoreRow(
        side=side,
        method=method,
        n_latents=found.n or len(alone),
        own=mean,
        shuffled=found.shuffled,
        difference=found.difference,
        difference_low=found.low,
        difference_high=found.high,
        n_asked=sum(row.n_asked for row in scored),
        n_parsed=sum(row.n_parsed for row in scored),
    )


def _scored(session: Session, comparison: Comparison, judge_id: int) -> list[_Scored]:
    newest_score = select(func.max(ExplanationScore.id)).group_by(
        ExplanationScore.explanation_id, ExplanationScore.judge_id, ExplanationScore.method
    )
    sides = latent_sides(session, comparison)
    query = (
        select(ExplanationScore, Explanation.latent_id, Explanation.is_control)
        .join(Explanation, Explanation.id == ExplanationScore.explanation_id)
        .where(
            ExplanationScore.id.in_(newest_score),
            ExplanationScore.judge_id == judge_id,
            Explanation.id.in_(newest_explanation_ids(Explanation.judge_id == judge_id)),
        )
    )
    return [
        _Scored(
            side,
            latent_id,
            score.method,
            is_control,
            score.balanced_accuracy,
            score.n_asked,
            score.n_parsed,
        )
        for score, latent_id, is_control in session.execute(query)
        for side in sides.get(latent_id, ())
    ]


def read_validation(
    session: Session, facts: ActiveComparison, denominator: str, test: str
) -> ValidationResults:
    """What was stored for a comparison; empty parts where nothing was."""
    return ValidationResults(
        null_runs=read_null_runs(session, facts.comparison, denominator, test),
        scores=read_scores(session, facts.comparison, facts.judge_id),
        experiments=read_experiments(session, facts.comparison, facts.judge_id),
        controls=read_control_rates(session, facts.comparison.name),
    )


@dataclass(frozen=True)
class Sweep:
    """The swept categories, or why there is nothing to sweep."""

    swept: str
    """What the threshold is a threshold of; empty where nothing was swept."""
    categories: tuple[SweptCategory, ...] = ()
    refusal: str | None = None
    n_left_out: int = 0
    """Latents of the denominator whose specificity is undefined."""
    is_one_size: bool = False
    """Whether the rule ranks latents, and yet the draws hold sides of the study's size alone."""


def sweep_members(
    members: Members,
    sets: tuple[LatentSetView, LatentSetView],
    nodes: Sequence[CategoryNode],
    denominator: str,
    alpha: float = ALPHA,
) -> Sweep:
    """Sweep from a tenth of the labelled latents to all of them, the most specific first.

    Labels exist only for isolated latents, so that a threshold can get stricter, never looser.
    """
    from taxonomy.robustness import SweptLatent, sweep_changes, sweep_thresholds

    rules = {latents.rule for latents in sets}
    if rules == {"imported"}:
        return Sweep("", refusal="the latents were imported: how specific they are is not known")
    if len(rules) > 1:
        return Sweep("", refusal="the two sides were isolated by different rules")
    if not rules <= set(RULES.names()):
        return Sweep("", refusal=f"no isolation rule is called {sets[0].rule!r} here")
    kept: list[list[SweptLatent]] = []
    left_out = 0
    for latents, side in zip(sets, (members.target, members.reference), strict=True):
        rule = stored_rule(latents.rule, latents.rule_params)
        counted = [member for member in side if member.is_in(denominator)]
        values = [(member, rule.strictness(member.specificity)) for member in counted]
        kept.append(
            [
                SweptLatent(value, member.counted_for("primary"))
                for member, value in values
                if value is not None
            ]
        )
        left_out += sum(value is None for _, value in values)
    if not kept[0] or not kept[1]:
        return Sweep("", refusal="a side has no labelled latent whose specificity is known")
    seen = frozenset().union(*(latent.categories for side in kept for latent in side))
    chosen = [node.category for node in nodes if node.category in seen]
    thresholds = sweep_thresholds(kept[0], kept[1])
    return Sweep(
        swept=RULES.get(rules.pop()).swept,
        categories=sweep_changes(chosen, kept[0], kept[1], thresholds, alpha),
        n_left_out=left_out,
    )


def _sweep(members: Members, given: RobustnessInput, denominator: str) -> Sweep:
    """Over the number of latents per side where the draws allow, else over the strictness."""
    if given.drawn is not None:
        nodes = [node.category for node in given.nodes]
        categories = given.drawn.swept(nodes, denominator, given.alpha)
        if categories:
            return Sweep(PER_SIDE, tuple(one for one in categories if _is_filled(one)))
    sweep = sweep_members(members, given.sets, given.nodes, denominator, given.alpha)
    return replace(sweep, is_one_size=_is_one_size(given))


def _is_one_size(given: RobustnessInput) -> bool:
    rule = given.sets[0].rule
    is_ranking = rule in RULES.names() and RULES.get(rule).sides_are_apart
    return is_ranking and given.drawn is not None and given.drawn.prefixes is None


def _is_filled(swept: SweptCategory) -> bool:
    return any(point.target_count or point.reference_count for point in swept.points)


_JUDGED = text(
    with_tables(MEMBER, VERDICT)
    + """
SELECT m.side, m.latent_id, v.outcome, k.slug AS category
FROM member AS m
JOIN verdict AS v
  ON v.latent_id = m.latent_id AND v.taxonomy_version_id = :version AND v.judge_id = :judge
LEFT JOIN judge_label_category AS jc ON jc.judge_label_id = v.id AND jc.rank = 1
LEFT JOIN category AS k ON k.id = jc.category_id
WHERE m.comparison_id = :comparison
ORDER BY m.side, m.latent_id
"""
)
_DECIDED = text(
    with_tables(MEMBER, STANDING, DECISION)
    + """
SELECT m.side, m.latent_id, d.outcome, k.slug AS category
FROM member AS m
JOIN decision AS d ON d.latent_id = m.latent_id AND d.taxonomy_version_id = :version
LEFT JOIN review_event_category AS rc ON rc.review_event_id = d.id AND rc.rank = 1
LEFT JOIN category AS k ON k.id = rc.category_id
WHERE m.comparison_id = :comparison
"""
)
_AUDITED = text(
    with_tables(MEMBER, STANDING)
    + """
SELECT m.side, m.latent_id, s.outcome, k.slug AS category, e.inclusion_prob
FROM member AS m
JOIN standing AS s ON s.latent_id = m.latent_id AND s.taxonomy_version_id = :version
JOIN review_event AS e ON e.id = s.id
LEFT JOIN review_event_category AS rc ON rc.review_event_id = s.id AND rc.rank = 1
LEFT JOIN category AS k ON k.id = rc.category_id
WHERE m.comparison_id = :comparison AND e.was_blind AND e.selection = 'random'
ORDER BY s.id
"""
)


@dataclass(frozen=True)
class JudgedSides:
    """The latents with a label of the active judge, by side."""

    target: tuple[JudgedLatent, ...]
    reference: tuple[JudgedLatent, ...]


def read_judged(
    session: Session, facts: ActiveComparison, nodes: Sequence[CategoryNode], denominator: str
) -> JudgedSides:
    """Judge and reviewers on every latent that the judge has labelled; primary categories."""
    from taxonomy.robustness import JudgedLatent

    values = {
        "comparison": facts.comparison.id,
        "version": facts.version.id,
        "judge": facts.judge_id,
    }
    parents = {node.category: node.parent for node in nodes}
    decided = {_key(row): row for row in session.execute(_DECIDED, values)}
    audited = {_key(row): row for row in session.execute(_AUDITED, values)}
    sides: dict[str, list[JudgedLatent]] = defaultdict(list)
    for row in session.execute(_JUDGED, values):
        audit, decision = audited.get(_key(row)), decided.get(_key(row))
        human = audit if audit is not None else decision
        sides[row.side].append(
            JudgedLatent(
                judge=_answer(row, parents, denominator),
                human=None if human is None else _answer(human, parents, denominator),
                is_audited=audit is not None,
                inclusion_prob=None if audit is None else audit.inclusion_prob,
            )
        )
    target, reference = (tuple(sides[side]) for side in SIDES)
    return JudgedSides(target, reference)


def _key(row: Any) -> tuple[SideName, int]:
    return row.side, row.latent_id


def _answer(row: Any, parents: dict[str, str | None], denominator: str) -> CountedLabel:
    from taxonomy.robustness import CountedLabel

    own = {row.category} if row.outcome == "assigned" and row.category else set()
    above = {parents.get(category) for category in own} - {None}
    counts = {
        "labelled": row.outcome in LABELLED,
        "assigned": row.outcome == "assigned",
        "isolated": True,
    }[denominator]
    return CountedLabel(frozenset(str(category) for category in own | above), counts)


@dataclass(frozen=True)
class RobustnessInput:
    """What the checks start from: the leading rows, and how they were computed."""

    main: tuple[CategoryRow, ...]
    nodes: Sequence[CategoryNode]
    sets: tuple[LatentSetView, LatentSetView]
    test: ExactTest
    alpha: float
    drawn: RandomisedSides | None = None


def check_robustness(
    session: Session, facts: ActiveComparison, given: RobustnessInput
) -> Robustness:
    """Run the checks of a comparison whose leading rows are computed."""
    from taxonomy.robustness import CategoryKey, correct_changes

    denominator = given.main[0].denominator
    members = read_members(session, facts)
    variants = compute_variants(
        members, given.nodes, test=given.test, alpha=given.alpha, sides=given.drawn
    )
    others = tuple(row for row in variants.rows if row.way != given.main[0].way)
    judged = read_judged(session, facts, given.nodes, denominator)
    keys = [CategoryKey(node.category, node.level, node.parent) for node in given.nodes]
    return Robustness(
        others=others,
        missing=variants.missing,
        sensitivity=sensitivity_of(given.main, others),
        correction=correct_changes(keys, judged.target, judged.reference, alpha=given.alpha),
        sweep=_sweep(members, given, denominator),
        validation=read_validation(session, facts, denominator, given.test),
        agreement=read_agreement(session, facts.comparison.name),
    )
