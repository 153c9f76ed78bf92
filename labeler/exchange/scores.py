"""Imports scores of other tools, counted by difflens' formulas, and rebuilds scores for export."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import select
from sqlalchemy.orm import Session

from labeler.exchange.formats import ExchangeExample, ExchangeScore, ExchangeWindow
from labeler.judge.base import Example, JudgeIdentity, judge_kind
from labeler.judge.latents import load_subjects
from labeler.labeling.score import score_requests
from labeler.labeling.trials import (
    ExampleAnswer,
    Method,
    Score,
    Trial,
    draw_trials,
    score_of,
    score_of_answers,
)
from labeler.store.judging import add_score
from labeler.store.schema import Explanation, ExplanationScore, Judge, JudgeCall, Run, ScoreCall
from labeler.store.statements import chunks

IN_FILE = "in the imported file"


def add_imported_score(
    session: Session, run_id: int, explanation: Explanation, score: ExchangeScore
) -> bool:
    """Write a score of an imported explanation, unless the newest one is equal.

    It is stored under the explanation's judge, because the folder does not name the scoring judge.
    """
    counted = score_of_answers(score.answers, where=IN_FILE)
    row = ExplanationScore(
        run_id=run_id,
        explanation_id=explanation.id,
        judge_id=explanation.judge_id,
        method=score.method,
        n_parsed=counted.n_parsed,
        **vars(counted),
    )
    return add_score(session, row, ())


_COUNTS = ("n_asked", "n_parsed", "n_positive", "n_negative", "n_true_positive", "n_true_negative")


@dataclass(frozen=True)
class RedrawnScores:
    """Scores with examples by latent id, and how many could not be drawn again."""

    by_latent: Mapping[int, tuple[ExchangeScore, ...]] = field(default_factory=dict)
    n_left_out: int = 0


@dataclass(frozen=True)
class _Settings:
    """The settings with which a run drew its examples."""

    examples: int
    per_call: int | None
    """None = as many as the judge's kind takes."""
    seed: int


@dataclass(frozen=True)
class _Scored:
    """The newest score of an explanation's text by one method."""

    score: ExplanationScore
    judge: Judge
    text: str


def redraw_scores(session: Session, texts: Mapping[int, str]) -> RedrawnScores:
    """The newest score of a latent's explanation by each method, with its examples.

    A score of the study's judges is preferred to an imported one, which has no examples. Scores
    without any example are not counted.
    """
    by_latent: dict[int, tuple[ExchangeScore, ...]] = {}
    n_left_out = 0
    settings: dict[int, _Settings | None] = {}
    for part in chunks(sorted(texts)):
        scored = _newest(session, {latent_id: texts[latent_id] for latent_id in part})
        for subject in load_subjects(session, list(scored), split="score"):
            redrawn: list[ExchangeScore] = []
            for each in scored[subject.latent_id]:
                run_id = each.score.run_id
                if run_id not in settings:
                    settings[run_id] = _settings(session.get_one(Run, run_id).config)
                found = _redraw(session, each, subject.windows, settings[run_id])
                if found is None:
                    n_left_out += 1
                else:
                    redrawn.append(found)
            by_latent[subject.latent_id] = tuple(redrawn)
    return RedrawnScores(by_latent, n_left_out)


def _newest(session: Session, texts: Mapping[int, str]) -> dict[int, list[_Scored]]:
    query = (
        select(ExplanationScore, Explanation, Judge)
        .join(Explanation, Explanation.id == ExplanationScore.explanation_id)
        .join(Judge, Judge.id == ExplanationScore.judge_id)
        .where(Explanation.latent_id.in_(list(texts)), Explanation.is_control.is_(False))
        .order_by(ExplanationScore.id)
    )
    rows = [
        (row.latent_id, _Scored(score, judge, row.text))
        for score, row, judge in session.execute(query)
        if row.text == texts[row.latent_id]
    ]
    rows.sort(key=lambda row: not row[1].judge.is_import)
    newest = {(latent_id, each.score.method): each for latent_id, each in rows}
    found: dict[int, list[_Scored]] = {}
    for (latent_id, _), each in sorted(newest.items(), key=lambda item: item[0]):
        if each.score.n_asked:
            found.setdefault(latent_id, []).append(each)
    return found


def _settings(config: Mapping[str, Any]) -> _Settings | None:
    """The score settings of the run's study; None where it has none."""
    try:
        scores, seed = config["scores"], config["study"]["seed"]
        per_call = None if scores["per_call"] is None else int(scores["per_call"])
        return _Settings(int(scores["examples"]), per_call, int(seed))
    except (KeyError, TypeError, ValueError):
        return None


def _redraw(
    session: Session,
    each: _Scored,
    windows: Sequence[Example],
    settings: _Settings | None,
) -> ExchangeScore | None:
    """The score with its examples; None where they are not exactly those of its calls."""
    if settings is None:
        return None
    method = cast(Method, each.score.method)
    trials = draw_trials(method, windows, settings.examples, settings.seed)
    per_call = settings.per_call or judge_kind(each.judge.endpoint_kind).examples_per_call
    requests = score_requests(method, each.text, trials, per_call)
    identity = _identity(each.judge)
    calls = list(
        session.execute(
            select(JudgeCall)
            .join(ScoreCall, ScoreCall.judge_call_id == JudgeCall.id)
            .where(ScoreCall.explanation_score_id == each.score.id)
        ).scalars()
    )
    asked = sorted(call.request_sha256 for call in calls)
    if asked != sorted(request.sha256(identity) for request in requests):
        return None
    answers: dict[str, bool] = {}
    for call in calls:
        answers |= (call.parsed or {}).get("answers", {})
    if not _counts_agree(each.score, score_of(trials, answers)):
        return None
    return ExchangeScore(
        method,
        tuple(
            ExchangeExample(
                ExampleAnswer(trial.truth, answers.get(trial.example.id)), _shown(trial)
            )
            for trial in trials
        ),
    )


def _identity(judge: Judge) -> JudgeIdentity:
    return JudgeIdentity(judge.name, judge.model, judge.endpoint_kind, judge.params)


def _counts_agree(row: ExplanationScore, score: Score) -> bool:
    return all(getattr(row, name) == getattr(score, name) for name in _COUNTS)


def _shown(trial: Trial) -> ExchangeWindow:
    window = trial.example.window
    return ExchangeWindow(window.tokens, window.activations, window.quantile)
