"""Plans the requests of `difflens label` and estimates their cost, without sending any."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, func, select

from labeler.judge.base import Judge, JudgeIdentity, JudgeRequest, judge_kind
from labeler.judge.budget import CharacterRate, Prices, Usage, characters_of
from labeler.judge.calls import Question
from labeler.judge.factory import prices_of
from labeler.judge.latents import load_subject
from labeler.judge.prompts import detect_request, fuzz_request
from labeler.labeling.explain import LabelConfig, explain_questions
from labeler.labeling.trials import draw_trials
from labeler.store.engine import read_session
from labeler.store.judging import find_ended_calls
from labeler.store.schema import Judge as JudgeRecord
from labeler.store.schema import JudgeCall
from labeler.study.judge_config import JudgeSection
from labeler.study.study_file import StudyConfig

ASSUMED_ANSWER_TOKENS = 80
"""Tokens of an answer, one sentence in JSON, where this judge has given none yet."""
SAMPLED_LATENTS = 8
"""Latents whose scoring requests are simulated to estimate their length."""
ASSUMED_EXPLANATION = "Fires on words of one kind, named here, in one role and language. " * 2
TEMPLATE_TOKENS = 12
"""Tokens that a chat template adds to two messages."""
PART = 128
CountTokens = Callable[[JudgeRequest], float]


@dataclass(frozen=True)
class PlannedCalls:
    """Calls of one kind by one judge; tokens and cost cover the calls still to make."""

    judge: str
    stage: str
    n_calls: int
    """Calls to make."""
    n_answered: int
    """Calls that are answered already and cost nothing."""
    usage: Usage
    cost: float | None
    """None without prices."""


@dataclass(frozen=True)
class Plan:
    """All calls of one `difflens label`, and how their tokens were estimated."""

    calls: tuple[PlannedCalls, ...]
    prompt_tokens_by: str
    answer_tokens_by: str


@dataclass(frozen=True)
class _Past:
    """Earlier calls of a judge, if any."""

    engine: Engine
    identity: JudgeIdentity
    judge_id: int | None

    @classmethod
    def of(cls, engine: Engine, identity: JudgeIdentity) -> _Past:
        """Look the judge up; nothing is written."""
        query = select(JudgeRecord.id).where(
            JudgeRecord.name == identity.name,
            JudgeRecord.model == identity.model,
            JudgeRecord.endpoint_kind == identity.endpoint_kind,
            JudgeRecord.params_sha256 == identity.params_sha256,
        )
        with read_session(engine) as session:
            return cls(engine, identity, session.execute(query).scalar_one_or_none())

    def hashed(self, questions: Iterable[Question]) -> dict[str, JudgeRequest]:
        """Requests by their hashes; equal requests are one call."""
        requests = [question.request for question in questions]
        return {request.sha256(self.identity): request for request in requests}

    def answered(self, keys: Collection[str]) -> dict[str, JudgeCall]:
        """The answered calls among these hashes."""
        if self.judge_id is None:
            return {}
        with read_session(self.engine) as session:
            return find_ended_calls(session, self.judge_id, keys)


def plan_labels(
    engine: Engine,
    judge: Judge,
    section: JudgeSection,
    config: StudyConfig,
    latents: Sequence[int],
    scored: Sequence[int],
    model_folder: Path | None,
) -> Plan:
    """Plan the explanations of latents, and the scores of some of them, of one judge."""
    past = _Past.of(engine, judge.identity)
    count, by = _counter(past, latents, model_folder)
    answer, answer_by = _answer_tokens(past, section.max_tokens)
    prices = prices_of(section)
    n_new, n_answered, prompts = 0, 0, 0.0
    for part in _parts(_asked(engine, latents)):
        requests = past.hashed(part)
        answered = past.answered(requests)
        n_answered += len(answered)
        n_new += len(requests) - len(answered)
        prompts += sum(count(request) for key, request in requests.items() if key not in answered)
    name = judge.identity.name
    calls = [_planned(name, "explain", n_new, n_answered, prompts, n_new * answer, prices)]
    calls += _planned_scores(engine, name, section, config, scored, count, answer, prices)
    return Plan(tuple(calls), by, answer_by)


def _planned(
    judge: str,
    stage: str,
    n_calls: int,
    n_answered: int,
    prompts: float,
    answers: float,
    prices: Prices | None,
) -> PlannedCalls:
    cost = prices.of(prompts, answers) if prices is not None else None
    return PlannedCalls(judge, stage, n_calls, n_answered, Usage(prompts, answers), cost)


def _planned_scores(
    engine: Engine,
    name: str,
    section: JudgeSection,
    config: StudyConfig,
    latents: Sequence[int],
    count: CountTokens,
    answer: float,
    prices: Prices | None,
) -> list[PlannedCalls]:
    """Most scoring calls to expect, from a sample: the explanations are not known yet."""
    scores = config.scores
    if section.kind not in scores.judges or not latents:
        return []
    sample = latents[:: max(1, len(latents) // SAMPLED_LATENTS)]
    unable = judge_kind(section.kind).cannot_score
    planned = []
    for method in scores.methods:
        if method in unable:
            continue
        ask = detect_request if method == "detection" else fuzz_request
        requests = []
        for latent_id in sample:
            with read_session(engine) as session:
                windows = load_subject(session, latent_id, split="score").windows
            trials = draw_trials(method, windows, scores.examples, config.study.seed)
            examples = [trial.example for trial in trials]
            for at in range(0, len(examples), scores.per_call):
                requests.append(ask(ASSUMED_EXPLANATION, examples[at : at + scores.per_call]))
        factor = len(latents) / len(sample) * (2 if scores.shuffled else 1)
        n_calls = round(len(requests) * factor)
        prompts = sum(count(request) for request in requests) * factor
        planned.append(_planned(name, method, n_calls, 0, prompts, n_calls * answer, prices))
    return planned


def _asked(engine: Engine, latents: Sequence[int]) -> Iterable[Question]:
    for asked in explain_questions(engine, latents, LabelConfig().min_windows):
        if isinstance(asked, Question):
            yield asked


def _parts(questions: Iterable[Question]) -> Iterable[list[Question]]:
    part: list[Question] = []
    for question in questions:
        part.append(question)
        if len(part) == PART:
            yield part
            part = []
    yield part


def _counter(past: _Past, latents: Sequence[int], folder: Path | None) -> tuple[CountTokens, str]:
    """The function that counts a prompt's tokens, and its description."""
    if folder is not None and (folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

        def exact(request: JudgeRequest) -> float:
            texts = [message.content for message in request.messages]
            return TEMPLATE_TOKENS + sum(len(one.ids) for one in tokenizer.encode_batch(texts))

        return exact, f"the tokenizer in {folder}"
    rate = CharacterRate()
    n_calls = _learn(past, latents, rate)
    characters = rate.characters / rate.tokens
    words = (
        f"{n_calls} earlier calls" if n_calls else "an assumption, no earlier call reported tokens"
    )
    return (
        lambda request: rate.tokens_of(characters_of(request)),
        f"{characters:.2f} characters per token ({words})",
    )


def _learn(past: _Past, latents: Sequence[int], rate: CharacterRate) -> int:
    """Learn from answered calls of these latents; returns how many reported their tokens."""
    n_calls = 0
    for part in _parts(_asked(past.engine, latents)):
        requests = past.hashed(part)
        for key, call in past.answered(requests).items():
            if call.prompt_tokens is not None:
                rate.learn(characters_of(requests[key]), call.prompt_tokens)
                n_calls += 1
    return n_calls


def _answer_tokens(past: _Past, longest: int) -> tuple[float, str]:
    """Mean tokens of this judge's answers, else an assumption, and its description."""
    query = select(func.avg(JudgeCall.completion_tokens)).where(
        JudgeCall.judge_id == past.judge_id, JudgeCall.completion_tokens.is_not(None)
    )
    with read_session(past.engine) as session:
        mean = session.execute(query).scalar_one()
    if mean is not None:
        return float(mean), f"{float(mean):.0f} per answer, the mean so far"
    assumed = min(ASSUMED_ANSWER_TOKENS, longest)
    return assumed, f"{assumed} per answer, an assumption"


def plan_lines(plan: Plan) -> list[str]:
    """The plan as a table for people."""
    head = f"{'judge':<28} {'calls for':<10} {'to make':>9} {'answered':>9}"
    lines = [f"{head} {'prompt tokens':>14} {'answer tokens':>14} {'cost':>10}"]
    for row in plan.calls:
        cost = "" if row.cost is None else f"{row.cost:.4f}"
        lines.append(
            f"{row.judge:<28} {row.stage:<10} {row.n_calls:>9,} {row.n_answered:>9,} "
            f"{row.usage.prompt_tokens:>14,.0f} {row.usage.completion_tokens:>14,.0f} {cost:>10}"
        )
    lines.append(f"prompt tokens estimated by {plan.prompt_tokens_by}; {plan.answer_tokens_by}")
    if all(row.cost is None for row in plan.calls):
        lines.append(
            "no cost: give judge.price_prompt_per_million and judge.price_completion_per_million"
        )
    if any(row.stage in ("detection", "fuzzing") for row in plan.calls):
        lines.append("scoring calls are an upper bound; their tokens are estimated from a sample")
    return lines
