"""Scores explanations, own and shuffled ones, on held-out evidence."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from crosscoder.progress import Advance, Progress, SilentProgress
from labeler.judge.base import Judge, JudgeKind, JudgeRequest, judge_kind
from labeler.judge.batch import BatchRunner, FailureLimit
from labeler.judge.calls import CallStore, Question, StoredCall
from labeler.judge.latents import load_subject
from labeler.judge.prompts import detect_request, fuzz_request
from labeler.labeling.trials import Method, Score, Trial, draw_trials, not_scored, score_of
from labeler.store.engine import read_session, write_session
from labeler.store.judging import (
    add_score,
    failed_explanations,
    lock_latents,
    newest_explanations,
    shuffled_explanation,
)
from labeler.store.outcomes import BY_NAME, OF_ONE_REQUEST
from labeler.store.schema import Explanation, ExplanationScore
from labeler.study.config import ScoreSettings

UNREADABLE = "the explanation says that the latent is not interpretable"


class ScoreConfig(ScoreSettings):
    """Methods, number of examples and failure limit of the scores."""

    seed: int = 0
    failure_limit: FailureLimit = FailureLimit()


@dataclass(frozen=True)
class ScoreSummary:
    """Counts of one judge's scores."""

    n_scores: int
    """Scores with a number, shuffled ones included."""
    n_undefined: int
    n_asked: int
    """Examples."""
    n_parsed: int
    n_reused: int
    """Calls whose answer came from an earlier run."""
    n_ended: Mapping[str, int]
    """Calls that are too long or were refused, by outcome; nobody asks again."""

    @property
    def words(self) -> str:
        """The summary in a few words."""
        undefined = f", {self.n_undefined} undefined" if self.n_undefined else ""
        ended = "".join(
            f", {count} calls {BY_NAME[name].short}" for name, count in self.n_ended.items()
        )
        return (
            f"{self.n_scores} scores{undefined}, "
            f"{self.n_parsed} of {self.n_asked} examples answered{ended}"
        )


def score_explanations(
    engine: Engine,
    judge: Judge,
    run_id: int,
    latent_ids: Sequence[int],
    config: ScoreConfig | None = None,
    progress: Progress | None = None,
) -> ScoreSummary:
    """Let the judge score its own explanations of some latents, and shuffled explanations.

    The judge is not told whose explanation it tests. Calls are recorded as they end, and an
    answered request is not sent again. Raises WorkError where the judge cannot go on or fails too
    often; a later call continues from there.
    """
    config = config or ScoreConfig()
    store = CallStore(engine, judge.identity, run_id)
    kind = judge_kind(judge.identity.endpoint_kind)
    tasks = _tasks(engine, store.judge_id, kind, run_id, latent_ids, config)
    progress = progress or SilentProgress()
    per_call = config.per_call or kind.examples_per_call
    n_calls = sum(len(task.requests(per_call)) for task in tasks)
    with progress.task("score", n_calls, "calls") as advance:
        scorer = _Scorer(engine, store, run_id, per_call, config.failure_limit, advance)
        asyncio.run(scorer.run(judge, tasks))
    return scorer.summary()


@dataclass(frozen=True, eq=False)
class _Task:
    """An explanation to score on a latent's examples by one method."""

    latent_id: int
    explanation_id: int
    text: str
    method: Method
    trials: tuple[Trial, ...]
    skipped: str | None = None
    """Why nothing is asked."""

    def requests(self, per_call: int) -> list[JudgeRequest]:
        """The calls that ask about all examples."""
        if self.skipped is not None:
            return []
        return score_requests(self.method, self.text, self.trials, per_call)


@dataclass(frozen=True)
class _ScoreQuestion(Question):
    """A call of a task."""

    task: _Task


def score_requests(
    method: Method, explanation: str, trials: Sequence[Trial], per_call: int
) -> list[JudgeRequest]:
    """The calls that ask about all trials, `per_call` in each, in their order."""
    ask = detect_request if method == "detection" else fuzz_request
    examples = [trial.example for trial in trials]
    parts = (examples[at : at + per_call] for at in range(0, len(examples), per_call))
    return [ask(explanation, part) for part in parts]


def _tasks(
    engine: Engine,
    judge_id: int,
    kind: JudgeKind,
    run_id: int,
    latent_ids: Sequence[int],
    config: ScoreConfig,
) -> list[_Task]:
    """Every explanation with every method, sorted by explanation.

    Prompts of one explanation share a prefix, which a server can cache.
    """
    with write_session(engine) as session:
        lock_latents(session, latent_ids)
        own = newest_explanations(session, dict.fromkeys(latent_ids), judge_id)
        tested: dict[int, list[Explanation]] = {key: [row] for key, row in own.items()}
        if config.shuffled:
            for latent_id, source in shuffled_sources(own, config.seed).items():
                row = shuffled_explanation(session, run_id, latent_id, source)
                tested[latent_id].append(row)
    tasks = []
    for latent_id, explanations in tested.items():
        with read_session(engine) as session:
            failed = failed_explanations(session, explanations)
            windows = load_subject(session, latent_id, split="score").windows
        for method in config.methods:
            trials = draw_trials(method, windows, config.examples, config.seed)
            tasks += [
                _Task(
                    latent_id,
                    row.id,
                    row.text,
                    method,
                    trials,
                    reason_to_skip(row, failed.get(row.id), method, kind, trials),
                )
                for row in explanations
            ]
    return sorted(tasks, key=lambda task: (task.method, task.text, task.latent_id))


def shuffled_sources(own: Mapping[int, Explanation], seed: int) -> dict[int, Explanation]:
    """For each interpretable latent the explanation of another one, with different words.

    Each latent takes the candidate with the smallest hash, so that a new latent changes few pairs.
    """
    candidates = [row for row in own.values() if row.interpretable]
    sources: dict[int, Explanation] = {}
    for row in candidates:
        others = [other for other in candidates if _words(other) != _words(row)]
        if others:
            sources[row.latent_id] = min(others, key=lambda other: _draw(seed, row, other))
    return sources


def _words(explanation: Explanation) -> str:
    return " ".join(explanation.text.casefold().split())


def _draw(seed: int, row: Explanation, other: Explanation) -> bytes:
    return hashlib.sha256(f"{seed}\0{row.latent_id}\0{other.latent_id}".encode()).digest()


def reason_to_skip(
    explanation: Explanation,
    failed: str | None,
    method: Method,
    kind: JudgeKind,
    trials: Sequence[Trial],
) -> str | None:
    """Why an explanation is not scored by a method on these trials; None where it is."""
    if failed is not None:
        return f"there is no explanation: {BY_NAME[failed].title.lower()}"
    if not explanation.interpretable:
        return UNREADABLE
    if method in kind.cannot_score:
        return kind.cannot_score[method]
    return score_of(trials, {trial.example.id: True for trial in trials}).reason


class _Scorer:
    """One batch of scores."""

    def __init__(
        self,
        engine: Engine,
        store: CallStore,
        run_id: int,
        per_call: int,
        failure_limit: FailureLimit,
        advance: Advance,
    ) -> None:
        self._engine = engine
        self._store = store
        self._run_id = run_id
        self._per_call = per_call
        self._failure_limit = failure_limit
        self._advance = advance
        self._open: dict[_Task, int] = {}
        self._answers: dict[_Task, dict[str, bool]] = defaultdict(dict)
        self._calls: dict[_Task, set[int]] = defaultdict(set)
        self._ended: Counter[str] = Counter()
        self._words: dict[_Task, str] = {}
        """The server's message where a request was too long or refused."""
        self._scores: list[Score] = []
        self._n_reused = 0

    async def run(self, judge: Judge, tasks: Sequence[_Task]) -> None:
        """Ask for all of them."""
        runner = BatchRunner(judge, self._store, self._failure_limit)
        await runner.run(self._questions(tasks), self._keep)

    def summary(self) -> ScoreSummary:
        """Counts of the scores."""
        defined = [score for score in self._scores if score.reason is None]
        return ScoreSummary(
            n_scores=len(defined),
            n_undefined=len(self._scores) - len(defined),
            n_asked=sum(score.n_asked for score in self._scores),
            n_parsed=sum(score.n_parsed for score in self._scores),
            n_reused=self._n_reused,
            n_ended=dict(self._ended),
        )

    def _questions(self, tasks: Sequence[_Task]) -> Iterator[Question]:
        for task in tasks:
            requests = task.requests(self._per_call)
            self._open[task] = len(requests)
            if task.skipped is not None:
                self._write(task, not_scored(task.skipped))
            for request in requests:
                yield _ScoreQuestion(task.latent_id, request, task)

    def _keep(self, question: Question, call: StoredCall) -> None:
        assert isinstance(question, _ScoreQuestion)
        task = question.task
        self._n_reused += not call.was_asked
        self._calls[task].add(call.id)
        if call.parsed is not None:
            self._answers[task] |= call.parsed["answers"]
        if call.status in OF_ONE_REQUEST:
            self._ended[call.status] += 1
            self._words[task] = f"{BY_NAME[call.status].short}: {call.error}"
        self._open[task] -= 1
        if self._open[task] == 0:
            self._write(task, self._score(task))
        self._advance(1)

    def _score(self, task: _Task) -> Score:
        """The score of a task; the reason of an undefined one names a refusal among its calls."""
        score = score_of(task.trials, self._answers[task])
        if score.reason is None or task not in self._words:
            return score
        return replace(score, reason=f"{score.reason} ({self._words[task]})")

    def _write(self, task: _Task, score: Score) -> None:
        row = ExplanationScore(
            run_id=self._run_id,
            explanation_id=task.explanation_id,
            judge_id=self._store.judge_id,
            method=task.method,
            n_parsed=score.n_parsed,
            **vars(score),
        )
        with write_session(self._engine) as session:
            lock_latents(session, [task.latent_id])
            add_score(session, row, self._calls[task])
        self._scores.append(score)
