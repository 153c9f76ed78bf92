"""What the judges of a study have used and what is left to ask them, over all stages."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from math import ceil, floor, log10
from pathlib import Path

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from labeler.errors import UsageError
from labeler.judge.base import judge_kind
from labeler.judge.budget import CHARACTERS_PER_TOKEN, Spending, Usage
from labeler.judge.factory import judge_prices, judge_sections, make_judge
from labeler.judge.latents import latents_of, leaf_options, options_of
from labeler.judge.lessons import MOST_REVIEWED
from labeler.judge.prompts import behaviour_request
from labeler.labeling.plan import JudgePlanner, Plan, PlannedCalls, assumed_calls
from labeler.stages.base import StageContext
from labeler.stages.behaviour import answers_to_judge, study_prompts
from labeler.stages.categorize import comparisons_to_judge, was_extended
from labeler.stages.experiment import revised_latents
from labeler.stages.isolate import labelled_seeds
from labeler.stages.label import labelled_latents, side_latents
from labeler.stages.learning import new_lessons
from labeler.store.engine import read_session
from labeler.store.latents import having_evidence
from labeler.store.schema import EffectiveLabel
from labeler.study.judge_config import JudgeSection
from labeler.study.study_file import StudyFile
from labeler.taxonomies.showing import stored_version, tree_of
from labeler.text import one_line
from taxonomy.counts import ClusterSettings
from taxonomy.induction import InductionConfig, NamingPlan

ASKING = ("label", "categorize", "behaviour")
"""The stages that ask a judge."""
UNKNOWN_LATENTS = (
    "the rule of [isolate] decides how many latents the judge is asked about: their calls are "
    "planned once `isolate` is done"
)
ASSUMED_LEFT = 0.25
"""Share of latents that fit no category, where that is not known yet."""


def left_words(plan: Plan, context: StageContext) -> str:
    """What is left to ask, and the limit with which the same command goes on to the end."""
    spending, used = context.spending, context.spending.used
    at_most = "at most " if any(row.is_bound and row.n_calls for row in plan.calls) else ""
    by_kind = ", ".join(f"{row.asked_for} {row.n_calls:,}" for row in plan.calls if row.n_calls)
    cost = f", cost {plan.usage.cost:.4g}" if plan.is_priced else ""
    longest = max(section.max_tokens for section in judge_sections(context.study))
    room = Usage(longest, longest)
    needed = used + plan.usage + room
    options = []
    if spending.limits.max_tokens is not None:
        options.append(f"--max-tokens-total {_rounded_up(needed.tokens):,.0f}".replace(",", ""))
    if spending.limits.max_cost is not None:
        most = max(prices.of(longest, longest) for prices in judge_prices(context.study).values())
        options.append(f"--max-cost {_rounded_up(used.cost + plan.usage.cost + most):g}")
    return (
        f"left: {at_most}{plan.n_calls:,} calls ({by_kind}), some {plan.usage.tokens:,.0f} tokens"
        f"{cost}; the same command with {' '.join(options)} goes on to the end"
    )


def _rounded_up(value: float) -> float:
    """The value, two digits of it, not below it."""
    if value <= 0:
        return 0.0
    unit = 10.0 ** (floor(log10(value)) - 1)
    return ceil(value / unit) * unit


def study_plan(context: StageContext, names: Sequence[str], done: Collection[str] = ()) -> Plan:
    """The calls of every judge that costs something in the stages of these names.

    Of a stage that is `done` no names of categories are planned: they were given.
    """
    plan = Plan()
    for section in judge_sections(context.study):
        if judge_kind(section.kind).is_metered:
            plan += _Planning(context, section).plan(names, done)
    return plan


def plan_lines(plan: Plan, spending: Spending) -> list[str]:
    """The plan as a table with a total, then what was used and how the tokens were estimated."""
    if not plan.calls:
        return list(plan.notes)
    rows = [
        ("stage", "calls for", "judge", "to make", "answered", "prompt tokens", "answer tokens",
         "cost"),
        *(_cells(row) for row in plan.calls),
        ("total", "", "", f"{plan.n_calls:,}", f"{sum(row.n_answered for row in plan.calls):,}",
         f"{plan.usage.prompt_tokens:,.0f}", f"{plan.usage.completion_tokens:,.0f}",
         f"{plan.usage.cost:.4f}" if plan.is_priced else ""),
    ]  # fmt: skip
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column < LEFT_COLUMNS else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    used = spending.used
    if used.tokens:
        lines.append(f"used so far: {used.words}")
    if spending.ledger is not None and spending.ledger.unpriced and plan.is_priced:
        names = ", ".join(one_line(name) for name in sorted(spending.ledger.unpriced))
        lines.append(f"without a cost, because study.toml has no price of theirs: {names}")
    lines += plan.notes
    if not plan.is_priced:
        lines.append(
            "no cost: give judge.price_prompt_per_million and judge.price_completion_per_million"
        )
    if any(row.is_bound for row in plan.calls):
        lines.append("calls with a + are at most so many: what they ask about is not known yet")
    return lines


LEFT_COLUMNS = 3
"""Columns of words in the plan's table; the others are numbers."""


def _cells(row: PlannedCalls) -> tuple[str, ...]:
    return (
        row.stage,
        row.asked_for,
        one_line(row.judge),
        f"{row.n_calls:,}{'+' if row.is_bound and row.n_calls else ''}",
        f"{row.n_answered:,}",
        f"{row.usage.prompt_tokens:,.0f}",
        f"{row.usage.completion_tokens:,.0f}",
        f"{row.usage.cost:.4f}" if row.is_priced else "",
    )


class _Planning:
    """The plan of one judge."""

    def __init__(self, context: StageContext, section: JudgeSection) -> None:
        self._context = context
        self._study = context.study
        self._config = context.study.config
        self._section = section
        self._is_first = section is context.study.config.judge
        with read_session(context.engine) as session:
            self._latents = self._asked(session)
            shown = having_evidence(session, self._latents[:1])
            self._has_evidence = bool(shown) or not self._config.models
            version = stored_version(session, self._study)
            self._version_id = None if version is None else version.id
            tree = tree_of(session, self._study)
            self._options = (
                leaf_options(tree) if version is None else options_of(session, version.id)
            )
        judge = make_judge(section, folder=self._study.folder)
        self._name = judge.identity.name
        folder = model_folder(self._study, section)
        self._planner = JudgePlanner(context.engine, judge, section, self._latents, folder)

    def plan(self, names: Sequence[str], done: Collection[str]) -> Plan:
        """The calls of the stages."""
        is_known = self._has_evidence or self._n_expected() > 0
        plan = Plan() if is_known else Plan(notes=(UNKNOWN_LATENTS,))
        if "label" in names and is_known:
            plan += self._label()
        if "categorize" in names and is_known:
            if self._is_first and "categorize" not in done:
                plan += self._naming()
            plan += self._categorize()
        if "behaviour" in names and self._is_first:
            plan += self._behaviour()
        return plan

    def _asked(self, session: Session) -> list[int]:
        """The latents that the judge is asked about, as far as they are known."""
        if not self._config.models:
            found = comparisons_to_judge(session) or []
            return latents_of(session, [each.id for each in found])
        try:
            return labelled_latents(session, self._context, self._section)
        except UsageError:
            return []

    def _label(self) -> Plan:
        if not self._config.models:
            return Plan()
        scores = self._config.scores
        if not self._has_evidence:
            plan = self._assumed("label", "explain", self._n_expected())
            if self._section.kind in scores.judges:
                n_scored = self._n_expected() - self._section.random_latents
                per_call = scores.per_call or judge_kind(self._section.kind).examples_per_call
                parts = -(-scores.examples // per_call) * (2 if scores.shuffled else 1)
                for method in scores.methods:
                    plan += self._assumed("label", method, n_scored * parts)
            if self._is_first and self._section.revise:
                n_latents, rounds = self._n_expected(), self._section.revise
                plan += self._assumed("label", "experiment", n_latents * (rounds + 1))
                plan += self._assumed("label", "revise", n_latents * rounds)
            return plan
        with read_session(self._context.engine) as session:
            scored = side_latents(session, self._context)
            on_sides = revised_latents(session, self._context)
        seed = self._config.study.seed
        plan = self._planner.explained(self._latents)
        if self._is_first and self._section.revise:
            plan += self._planner.revised(on_sides)
        return plan + self._planner.scored(scored, scores, seed)

    def _categorize(self) -> Plan:
        if not self._has_evidence:
            n_calls = self._n_expected() * self._section.categorize_repeats
            return self._assumed("categorize", "categorize", n_calls)
        is_explained_first = bool(self._config.models)
        shortlist = 0 if self._config.embedding.kind == "tfidf" else self._section.shortlist
        lessons = new_lessons(self._context, self._section)
        reviewed = () if lessons is None else lessons.reviewed[:MOST_REVIEWED]
        return self._planner.categorized(
            self._latents, self._options, self._version_id, is_explained_first, shortlist, reviewed
        )

    def _naming(self) -> Plan:
        mode = self._config.taxonomy.mode
        induces = mode == "induce" and self._version_id is None
        if not judge_kind(self._section.kind).names_categories:
            return Plan()
        if not induces and (mode != "residual" or was_extended(self._context)):
            return Plan()
        n_texts = len(self._latents) if self._has_evidence else self._n_expected()
        if mode == "residual":
            n_texts = self._n_left(n_texts)
        clusters = self._config.taxonomy.model_dump(include=set(ClusterSettings.model_fields))
        config = InductionConfig(**clusters, naming=NamingPlan(seed=self._config.study.seed))
        plan = self._planner.named(n_texts, config)
        if mode == "residual" and self._config.taxonomy.accept == "auto":
            n_calls = n_texts * self._section.categorize_repeats
            plan += self._assumed("categorize", "categorize", n_calls)
        return plan

    def _n_left(self, n_latents: int) -> int:
        """Latents that fit no category, with the assumed share of those without a label yet."""
        query = select(func.count(func.distinct(EffectiveLabel.latent_id)))
        with read_session(self._context.engine) as session:
            if self._version_id is None or not session.scalar(query):
                return round(ASSUMED_LEFT * n_latents)
            n_none, n_unlabelled = (
                session.scalar(query.where(EffectiveLabel.outcome == outcome)) or 0
                for outcome in ("none", "unlabelled")
            )
        return round(n_none + ASSUMED_LEFT * n_unlabelled)

    def _behaviour(self) -> Plan:
        try:
            prompts = study_prompts(self._context)
        except UsageError as error:
            return Plan(notes=(str(error),))
        judged = [prompt for prompt in prompts if prompt.check is None]
        if not judged:
            return Plan()
        answers, n_open = answers_to_judge(self._context, judged)
        requests = [
            behaviour_request(prompt.messages, text, self._options) for prompt, text in answers
        ]
        length = self._config.behaviour.max_new_tokens * int(CHARACTERS_PER_TOKEN)
        assumed = behaviour_request(judged[0].messages, "x" * length, self._options)
        return self._planner.classified(requests, n_open, assumed)

    def _assumed(self, stage: str, asked_for: str, n_calls: int) -> Plan:
        return assumed_calls(stage, asked_for, self._name, self._section, n_calls)

    def _n_expected(self) -> int:
        """Latents that will be asked about, at most; 0 where only the isolation will tell."""
        return len(self._latents) or expected_latents(self._study, self._section)


def expected_latents(study: StudyFile, section: JudgeSection) -> int:
    """Latents that a judge is asked about, at most; 0 where only the isolation will tell."""
    config = study.config
    limit = config.isolate.isolation_rule().limit
    if limit is None:
        return 0
    per_comparison = 2 * limit * len(labelled_seeds(study)) + config.scores.controls
    return per_comparison * len(config.comparison) + section.random_latents


def model_folder(study: StudyFile, section: JudgeSection) -> Path | None:
    """Local folder of the judge's model, whose tokenizer counts exactly; None where it has none."""
    for name in (section.server.model_path, section.model):
        if name and study.resolve(name).is_dir():
            return study.resolve(name)
    return None
