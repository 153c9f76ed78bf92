"""Checks on puzzles whether a judge ranks the true explanation above the false ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
import yaml

from crosscoder.progress import Progress, SilentProgress
from labeler.judge.base import Example, Judge, JudgeReply, JudgeRequest, judge_kind
from labeler.judge.prompts import detect_request, fuzz_request
from labeler.labeling.asking import ask_all
from labeler.labeling.trials import METHODS, Method, Trial, draw_trials, score_of

_MARKED = re.compile(r"<<(.*?)>>(?!>)", re.DOTALL)
_TOKEN = re.compile(r"\s*[^\W_]+|\s*[^\w\s]|\s*_|\s+")
ROLE = "plain"


@dataclass(frozen=True)
class Puzzle:
    """Texts of one invented latent, with a true and several false explanations."""

    name: str
    category: str
    language: str
    true: str
    """The right explanation."""
    false: tuple[str, ...]
    """Plausible but wrong explanations."""
    windows: tuple[Example, ...]
    """Texts in which it fires on the marked tokens, then texts in which it is inactive."""


@cache
def puzzle_set() -> tuple[Puzzle, ...]:
    """All puzzles, in the order of the file."""
    source = resources.files("labeler.labeling").joinpath("puzzles.yaml")
    rows = yaml.safe_load(source.read_text(encoding="utf-8"))
    return tuple(
        Puzzle(
            name=row["name"],
            category=row["category"],
            language=row["language"],
            true=row["explanation"],
            false=tuple(row["wrong"]),
            windows=(
                *(marked_window(text) for text in row["fires"]),
                *(marked_window(text) for text in row["silent"]),
            ),
        )
        for row in rows
    )


def marked_window(text: str) -> Example:
    """A text as evidence; tokens between `<<` and `>>` are active."""
    tokens: list[str] = []
    activations: list[float] = []
    for number, part in enumerate(_MARKED.split(text)):
        pieces = _TOKEN.findall(part)
        tokens += pieces
        activations += [float(number % 2)] * len(pieces)
    kind = "top" if any(activations) else "negative"
    roles = (ROLE,) * len(tokens)
    return Example(kind, "score", tuple(tokens), roles, tuple(activations))


EXAMPLES = 20
N_DRAWS = 2000


@dataclass(frozen=True)
class PuzzleResult:
    """Scores of one puzzle's explanations."""

    puzzle: str
    true_score: float | None
    """Mean balanced accuracy of the true explanation over the methods; None = nothing parsed."""
    false_scores: tuple[float | None, ...]

    @property
    def points(self) -> tuple[float, ...]:
        """For each false explanation 1 where the true one scores higher, 0.5 on a tie.

        An undefined score counts as chance, 0.5.
        """
        true = 0.5 if self.true_score is None else self.true_score
        others = (0.5 if score is None else score for score in self.false_scores)
        return tuple(0.5 if true == other else float(true > other) for other in others)


@dataclass(frozen=True)
class PuzzleCheck:
    """Ranking accuracy of a judge; 0.5 = chance."""

    judge: str
    methods: tuple[Method, ...]
    results: tuple[PuzzleResult, ...]
    accuracy: float
    """Share of (true, false) pairs ranked correctly; a tie counts 0.5."""
    ci_low: float
    ci_high: float
    true_mean: float | None
    """Mean balanced accuracy of the true explanations."""
    false_mean: float | None
    n_asked: int
    """Examples."""
    n_parsed: int

    @property
    def lines(self) -> tuple[str, ...]:
        """The result in words."""
        share = self.n_parsed / self.n_asked if self.n_asked else 0.0
        return (
            f"judge: {self.judge}, by {' and '.join(self.methods)}",
            f"puzzles: {len(self.results)}",
            f"true above false: {self.accuracy:.3f} [{self.ci_low:.3f}, {self.ci_high:.3f}]"
            " (chance 0.5; 95 % interval over puzzles)",
            f"balanced accuracy: true {_shown(self.true_mean)}, false {_shown(self.false_mean)}",
            f"answers: {self.n_parsed} of {self.n_asked} examples ({share:.1%})",
        )


@dataclass(frozen=True)
class _Question:
    """One explanation of one puzzle by one method; 0 is the true explanation."""

    puzzle: int
    explanation: int
    method: Method
    trials: tuple[Trial, ...]
    request: JudgeRequest


def check_puzzles(
    judge: Judge,
    puzzles: Sequence[Puzzle] | None = None,
    methods: Sequence[Method] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> PuzzleCheck:
    """Score every explanation of every puzzle and rank; nothing is written to a database.

    Without `methods` both are used, except for those that the judge cannot answer. WorkError
    from the judge where it cannot go on.
    """
    chosen = tuple(puzzles) if puzzles is not None else puzzle_set()
    used = tuple(methods) if methods is not None else _methods_of(judge)
    questions = list(_questions(chosen, used, seed))
    progress = progress or SilentProgress()
    with progress.task("puzzles", len(questions), "calls") as advance:
        replies = ask_all(judge, [question.request for question in questions], advance)
    return _result(judge.identity.name, chosen, used, questions, replies, seed)


def _methods_of(judge: Judge) -> tuple[Method, ...]:
    unable = judge_kind(judge.identity.endpoint_kind).cannot_score
    return tuple(method for method in METHODS if method not in unable)


def _questions(
    puzzles: Sequence[Puzzle], methods: Sequence[Method], seed: int
) -> Iterator[_Question]:
    for number, puzzle in enumerate(puzzles):
        for method in methods:
            trials = draw_trials(method, puzzle.windows, EXAMPLES, seed)
            examples = [trial.example for trial in trials]
            ask = detect_request if method == "detection" else fuzz_request
            for explanation, text in enumerate((puzzle.true, *puzzle.false)):
                yield _Question(number, explanation, method, trials, ask(text, examples))


def _result(
    judge: str,
    puzzles: Sequence[Puzzle],
    methods: tuple[Method, ...],
    questions: Sequence[_Question],
    replies: Sequence[JudgeReply],
    seed: int,
) -> PuzzleCheck:
    values: dict[tuple[int, int], list[float]] = {}
    n_asked = n_parsed = 0
    for question, reply in zip(questions, replies, strict=True):
        answers = reply.parsed["answers"] if reply.parsed is not None else {}
        score = score_of(question.trials, answers)
        n_asked += score.n_asked
        n_parsed += score.n_parsed
        if score.balanced_accuracy is not None:
            key = (question.puzzle, question.explanation)
            values.setdefault(key, []).append(score.balanced_accuracy)
    means = {key: sum(found) / len(found) for key, found in values.items()}
    results = tuple(
        PuzzleResult(
            puzzle.name,
            means.get((number, 0)),
            tuple(means.get((number, other)) for other in range(1, len(puzzle.false) + 1)),
        )
        for number, puzzle in enumerate(puzzles)
    )
    by_puzzle = np.array([np.mean(result.points) for result in results])
    low, high = _interval(by_puzzle, seed)
    true = [result.true_score for result in results if result.true_score is not None]
    false = [score for result in results for score in result.false_scores if score is not None]
    return PuzzleCheck(
        judge=judge,
        methods=methods,
        results=results,
        accuracy=float(by_puzzle.mean()),
        ci_low=low,
        ci_high=high,
        true_mean=sum(true) / len(true) if true else None,
        false_mean=sum(false) / len(false) if false else None,
        n_asked=n_asked,
        n_parsed=n_parsed,
    )


def _interval(by_puzzle: np.ndarray, seed: int) -> tuple[float, float]:
    """Percentile bootstrap over puzzles: the pairs of one puzzle share their texts."""
    generator = np.random.default_rng(seed)
    rows = generator.integers(len(by_puzzle), size=(N_DRAWS, len(by_puzzle)))
    low, high = np.quantile(by_puzzle[rows].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"
