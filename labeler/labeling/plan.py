"""Plans the judge's calls of every stage and estimates their tokens and cost, sending none."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Engine, func, select

from labeler.judge.base import CategoryOption, Judge, JudgeRequest, judge_kind
from labeler.judge.budget import CharacterRate, Prices, Usage, characters_of
from labeler.judge.calls import Question
from labeler.judge.factory import limits_of, prices_of
from labeler.judge.labelled_evidence import LabelledLatent
from labeler.judge.latents import load_subject
from labeler.judge.prompts import TEMPLATE_TOKENS, categorize_request
from labeler.labeling.explain import LabelConfig, explain_questions
from labeler.labeling.score import reason_to_skip, score_requests, shuffled_sources
from labeler.labeling.trials import draw_trials
from labeler.store.engine import read_session
from labeler.store.experiments import tested_explanations
from labeler.store.judging import (
    explanations_for,
    failed_explanations,
    find_ended_calls,
    newest_explanations,
    newest_labels,
)
from labeler.store.outcomes import FAILED, OF_ONE_REQUEST
from labeler.store.schema import Judge as JudgeRecord
from labeler.store.schema import JudgeCall
from labeler.store.statements import chunks
from labeler.study.config import ScoresSection
from labeler.study.judge_config import TOKENS_OF_TWO_TEXTS, JudgeSection
from taxonomy.induction import InductionConfig

ASSUMED_ANSWER_TOKENS = 80
"""Tokens of an answer, one sentence in JSON, where this judge has given none yet."""
ASSUMED_EXPLANATION = "Fires on words of one kind, named here, in one role and language. " * 2
SAMPLED_LATENTS = 8
"""Latents whose requests are simulated, where what they say is not known yet."""
ASSUMED_PROMPT_TOKENS = {
    "explain": 1100, "detection": 910, "fuzzing": 660, "categorize": 1200, "name": 840,
    "merge": 630, "behaviour": 620, "experiment": 340, "revise": 2500,
}  # fmt: skip
"""Tokens of a prompt by what is asked for, where there is nothing yet to make one from.

The longest of the demo (benchmarks/judge_prompts.py), and prompts with all members or texts that
are shown at most.
"""
CALL_STAGE = {"detection": "detect", "fuzzing": "fuzz"}
"""Stage of the calls by the method of a score."""
MERGES_PER_CATEGORY = 5
"""Most categories that one is compared with."""
ASSUMED_SEE_ALL = 0.1
"""Share of latents for which a judge asks to see the categories beyond its shortlist."""
PART = 128
CountTokens = Callable[[JudgeRequest], float]
Item = TypeVar("Item")


@dataclass(frozen=True)
class PlannedCalls:
    """Calls of one kind by one judge; tokens and cost cover the calls still to make."""

    stage: str
    """Stage of the study."""
    asked_for: str
    """Stage of the calls, or the method of a score."""
    judge: str
    n_calls: int
    """Calls to make."""
    n_answered: int
    """Calls that are answered already and cost nothing."""
    usage: Usage
    is_priced: bool
    is_bound: bool = False
    """Whether there will be no more calls than these, and likely fewer."""


@dataclass(frozen=True)
class Plan:
    """The judge's calls of some stages, and how their tokens were estimated."""

    calls: tuple[PlannedCalls, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def n_calls(self) -> int:
        """Calls to make."""
        return sum(row.n_calls for row in self.calls)

    @property
    def usage(self) -> Usage:
        """Tokens and cost of the calls to make."""
        return sum((row.usage for row in self.calls), Usage())

    @property
    def is_priced(self) -> bool:
        """Whether the cost covers every judge."""
        return bool(self.calls) and all(row.is_priced for row in self.calls)

    def __add__(self, other: Plan) -> Plan:
        """Both together, each note once."""
        return Plan(self.calls + other.calls, tuple(dict.fromkeys(self.notes + other.notes)))


@dataclass
class _Tally:
    """Calls of one kind, counted up."""

    n_calls: float = 0
    n_answered: int = 0
    prompt_tokens: float = 0.0

    def add(self, n_calls: float, prompt_tokens: float) -> None:
        """Count calls to make."""
        self.n_calls += n_calls
        self.prompt_tokens += prompt_tokens


def assumed_answer(stage: str, section: JudgeSection) -> float:
    """Tokens of an answer where this judge has given none of the stage yet."""
    is_long = stage == "experiment"
    tokens = TOKENS_OF_TWO_TEXTS * section.revise_texts if is_long else ASSUMED_ANSWER_TOKENS
    return float(min(tokens, section.max_tokens))


def assumed_calls(
    stage: str, asked_for: str, judge: str, section: JudgeSection, n_calls: int
) -> Plan:
    """Calls about latents that are not there yet, at most, with assumed tokens."""
    prices = prices_of(section)
    prompts = float(n_calls * ASSUMED_PROMPT_TOKENS[asked_for])
    answers = n_calls * assumed_answer(asked_for, section)
    cost = prices.of(prompts, answers) if prices is not None else 0.0
    usage = Usage(prompts, answers, cost)
    row = PlannedCalls(stage, asked_for, judge, n_calls, 0, usage, prices is not None, True)
    return Plan((row,), ("prompts and answers of latents that are not there yet are assumed",))


class JudgePlanner:
    """Plans the calls of one judge from what the database holds; nothing is written."""

    def __init__(
        self,
        engine: Engine,
        judge: Judge,
        section: JudgeSection,
        latents: Sequence[int] = (),
        model_folder: Path | None = None,
    ) -> None:
        """`latents` are those whose earlier prompts tell how many characters a token has."""
        self._engine = engine
        self._identity = judge.identity
        self._section = section
        self._prices: Prices | None = prices_of(section)
        self._limits = limits_of(section)
        query = select(JudgeRecord.id).where(
            JudgeRecord.name == self._identity.name,
            JudgeRecord.model == self._identity.model,
            JudgeRecord.endpoint_kind == self._identity.endpoint_kind,
            JudgeRecord.params_sha256 == self._identity.params_sha256,
        )
        with read_session(engine) as session:
            self._judge_id = session.execute(query).scalar_one_or_none()
        self._answer_tokens, answers_by = self._learn_answers()
        self._count, prompts_by = self._counter(latents, model_folder)
        self.note = f"prompt tokens estimated by {prompts_by}; {answers_by}"

    def explained(self, latents: Sequence[int]) -> Plan:
        """The explanations of latents."""
        tally = _Tally()
        for part in _parts(self._explain_questions(latents)):
            self._add_requests(tally, [question.request for question in part])
        return self._plan("label", "explain", tally)

    def scored(self, latents: Sequence[int], scores: ScoresSection, seed: int) -> Plan:
        """The scores of the latents' explanations, shuffled ones included.

        The requests about a latent that has none yet are simulated.
        """
        kind = judge_kind(self._section.kind)
        if self._section.kind not in scores.judges:
            return Plan()
        with read_session(self._engine) as session:
            own = newest_explanations(session, dict.fromkeys(latents), self._judge_id or 0)
        sources = shuffled_sources(own, seed) if scores.shuffled else {}
        per_call = scores.per_call or kind.examples_per_call
        plan = Plan()
        for method in scores.methods:
            if method in kind.cannot_score:
                continue
            tally = _Tally()
            for latent_id, explanation in own.items():
                with read_session(self._engine) as session:
                    failed = failed_explanations(session, [explanation]).get(explanation.id)
                    windows = load_subject(session, latent_id, split="score").windows
                trials = draw_trials(method, windows, scores.examples, seed)
                if reason_to_skip(explanation, failed, method, kind, trials) is None:
                    shuffled = [sources[latent_id].text] if latent_id in sources else []
                    for text in (explanation.text, *shuffled):
                        self._add_requests(tally, score_requests(method, text, trials, per_call))
            open_ = [latent_id for latent_id in latents if latent_id not in own]
            sample = _sample(open_)
            for latent_id in sample:
                with read_session(self._engine) as session:
                    windows = load_subject(session, latent_id, split="score").windows
                trials = draw_trials(method, windows, scores.examples, seed)
                requests = score_requests(method, ASSUMED_EXPLANATION, trials, per_call)
                factor = len(open_) / len(sample) * (2 if scores.shuffled else 1)
                tally.add(factor * len(requests), factor * sum(map(self._count, requests)))
            plan += self._plan("label", method, tally, is_bound=bool(open_))
        return plan

    def revised(self, latents: Sequence[int]) -> Plan:
        """The experiments on explanations, at most: that all of them fail in every round."""
        rounds = self._section.revise
        with read_session(self._engine) as session:
            known = newest_explanations(session, latents, self._judge_id or 0)
            tested = tested_explanations(session, [row.id for row in known.values()])
            open_ = [
                latent_id
                for latent_id in latents
                if latent_id not in known
                or (known[latent_id].interpretable and known[latent_id].id not in tested)
            ]
        plan = Plan()
        for asked_for, n_rounds in (("experiment", rounds + 1), ("revise", rounds)):
            n_answered = self._n_ended(asked_for, open_)
            n_calls = max(0, n_rounds * len(open_) - n_answered)
            tally = _Tally(n_calls, n_answered, n_calls * ASSUMED_PROMPT_TOKENS[asked_for])
            plan += self._plan("label", asked_for, tally, is_bound=True)
        return plan

    def categorized(
        self,
        latents: Sequence[int],
        options: Sequence[CategoryOption],
        version_id: int | None,
        is_explained_first: bool,
        shortlist: int = 0,
        reviewed: Sequence[LabelledLatent] = (),
    ) -> Plan:
        """The categories of latents, as often as each is asked about.

        With `is_explained_first` latents without an explanation get one before. Which categories
        are in a latent's `shortlist` hardly matters for the length of a prompt: the first ones
        stand in for them. Where there are `reviewed` latents that the judge was not taught yet,
        answered questions may be asked again with some of them, which these stand in for.
        """
        tally = _Tally()
        repeats = self._section.categorize_repeats
        with read_session(self._engine) as session:
            known = explanations_for(session, latents, self._judge_id or 0)
            failed = failed_explanations(session, known.values())
            labels = newest_labels(session, latents, self._judge_id or 0, version_id or 0)
        open_: list[int] = []
        for latent_id in latents:
            explanation = known.get(latent_id)
            if explanation is None:
                open_ += [latent_id] if is_explained_first else []
                continue
            if not explanation.interpretable or explanation.id in failed:
                continue
            label = labels.get(latent_id)
            answers = label is not None and label.explanation_id == explanation.id
            if answers and label is not None and _is_answered(label.outcome) and not reviewed:
                tally.n_answered += repeats
            elif label is None or label.carried_from_id is None:
                open_.append(latent_id)
        sample = _sample(open_)
        with read_session(self._engine) as session:
            for latent_id in sample:
                text = known[latent_id].text if latent_id in known else ASSUMED_EXPLANATION
                subject, limit = load_subject(session, latent_id), self._limits.categorize
                whole = categorize_request(subject, text, options, 0, (), limit, reviewed)
                factor = repeats * len(open_) / len(sample)
                if 0 < shortlist < len(options):
                    shown, others = options[:shortlist], options[shortlist:]
                    further = [option.slug for option in others]
                    first = categorize_request(subject, text, shown, 0, further, limit, reviewed)
                    tally.add(factor, factor * self._count(first))
                    factor *= ASSUMED_SEE_ALL
                tally.add(factor, factor * self._count(whole))
        is_bound = bool(reviewed) or any(latent_id not in known for latent_id in open_)
        return self._plan("categorize", "categorize", tally, is_bound)

    def named(self, n_texts: int, config: InductionConfig) -> Plan:
        """The names and mergers of categories made from explanations, at most."""
        n_clusters = n_texts // config.min_members
        n_groups = min(config.most_groups, n_clusters // 2)
        n_names = config.naming.n_samples * (n_clusters + n_clusters // 2 + n_groups)
        wanted = {"name": n_names, "merge": n_clusters * MERGES_PER_CATEGORY}
        plan = Plan()
        for asked_for, at_most in wanted.items():
            n_answered = self._n_ended(asked_for)
            n_calls = max(0, at_most - n_answered)
            tally = _Tally(n_calls, n_answered, n_calls * ASSUMED_PROMPT_TOKENS[asked_for])
            plan += self._plan("categorize", asked_for, tally, is_bound=True)
        return plan

    def classified(
        self, requests: Iterable[JudgeRequest], n_unknown: int, assumed: JudgeRequest | None
    ) -> Plan:
        """The classes of answers: known requests, and `n_unknown` like the assumed one."""
        tally = _Tally()
        for part in _parts(requests):
            self._add_requests(tally, part)
        if assumed is not None:
            tally.add(n_unknown, n_unknown * self._count(assumed))
        return self._plan("behaviour", "behaviour", tally, is_bound=n_unknown > 0)

    def _plan(self, stage: str, asked_for: str, tally: _Tally, is_bound: bool = False) -> Plan:
        n_calls = round(tally.n_calls)
        answers = n_calls * self._answer_tokens(CALL_STAGE.get(asked_for, asked_for))
        cost = self._prices.of(tally.prompt_tokens, answers) if self._prices is not None else 0.0
        usage = Usage(tally.prompt_tokens, answers, cost)
        row = PlannedCalls(
            stage, asked_for, self._identity.name, n_calls, tally.n_answered, usage,
            self._prices is not None, is_bound,
        )  # fmt: skip
        return Plan((row,), (self.note,))

    def _add_requests(self, tally: _Tally, requests: Iterable[JudgeRequest]) -> None:
        """Count requests, equal ones once; those that ended cost nothing."""
        keyed = {request.sha256(self._identity): request for request in requests}
        ended = self._ended(keyed)
        tally.n_answered += len(ended)
        for key, request in keyed.items():
            if key not in ended:
                tally.add(1, self._count(request))

    def _ended(self, keys: Collection[str]) -> Mapping[str, JudgeCall]:
        if self._judge_id is None:
            return {}
        with read_session(self._engine) as session:
            return find_ended_calls(session, self._judge_id, keys)

    def _n_ended(self, stage: str, latents: Sequence[int] | None = None) -> int:
        """Answered requests of a stage, about some latents or in all."""
        query = select(func.count(func.distinct(JudgeCall.request_sha256))).where(
            JudgeCall.judge_id == self._judge_id,
            JudgeCall.stage == stage,
            JudgeCall.status == "ok",
        )
        with read_session(self._engine) as session:
            if latents is None:
                return int(session.execute(query).scalar_one())
            return sum(
                int(session.execute(query.where(JudgeCall.latent_id.in_(part))).scalar_one())
                for part in chunks(latents)
            )

    def _explain_questions(self, latents: Sequence[int]) -> Iterator[Question]:
        config = LabelConfig(limits=self._limits)
        for asked in explain_questions(self._engine, latents, config):
            if isinstance(asked, Question):
                yield asked

    def _counter(self, latents: Sequence[int], folder: Path | None) -> tuple[CountTokens, str]:
        """The function that counts a prompt's tokens, and its description."""
        if folder is not None and (folder / "tokenizer.json").is_file():
            from tokenizers import Tokenizer

            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

            def exact(request: JudgeRequest) -> float:
                texts = [message.content for message in request.messages]
                return TEMPLATE_TOKENS + sum(len(one.ids) for one in tokenizer.encode_batch(texts))

            return exact, f"the tokenizer in {folder}"
        rate = CharacterRate()
        n_calls = self._learn_rate(latents, rate)
        characters = rate.characters / rate.tokens
        words = (
            f"{n_calls} earlier calls"
            if n_calls
            else "an assumption, no earlier call reported tokens"
        )
        return (
            lambda request: rate.tokens_of(characters_of(request)),
            f"{characters:.2f} characters per token ({words})",
        )

    def _learn_rate(self, latents: Sequence[int], rate: CharacterRate) -> int:
        """Learn from answered calls of these latents; returns how many reported their tokens."""
        n_calls = 0
        if self._judge_id is None:
            return n_calls
        for part in _parts(self._explain_questions(latents)):
            keyed = {each.request.sha256(self._identity): each.request for each in part}
            for key, call in self._ended(keyed).items():
                if call.prompt_tokens is not None:
                    rate.learn(characters_of(keyed[key]), call.prompt_tokens)
                    n_calls += 1
        return n_calls

    def _learn_answers(self) -> tuple[Callable[[str], float], str]:
        """Mean tokens of this judge's answers by stage, else an assumption; and its description."""
        told = func.coalesce(JudgeCall.completion_tokens, JudgeCall.estimated_completion_tokens)
        query = (
            select(JudgeCall.stage, func.avg(told))
            .where(JudgeCall.judge_id == self._judge_id, JudgeCall.status == "ok")
            .group_by(JudgeCall.stage)
        )
        with read_session(self._engine) as session:
            means = {
                stage: float(mean) for stage, mean in session.execute(query) if mean is not None
            }

        def tokens_of(stage: str) -> float:
            return means.get(stage, assumed_answer(stage, self._section))

        if not means:
            return tokens_of, f"{tokens_of(''):.0f} per answer, an assumption"
        words = ", ".join(f"{mean:.0f} for {stage}" for stage, mean in sorted(means.items()))
        return (
            tokens_of,
            f"tokens of an answer: the mean so far ({words}), else {tokens_of(''):.0f}",
        )


def _is_answered(outcome: str) -> bool:
    return outcome not in FAILED or outcome in OF_ONE_REQUEST


def _parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    left = iter(items)
    while part := list(islice(left, PART)):
        yield part


def _sample(latents: Sequence[int]) -> Sequence[int]:
    return latents[:: max(1, len(latents) // SAMPLED_LATENTS)]
