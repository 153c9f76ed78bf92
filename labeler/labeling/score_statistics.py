"""Balanced accuracy of an explanation with its interval, and own against shuffled explanations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from labeler.labeling.score_examples import Trial
from taxonomy.settings import ALPHA


@dataclass(frozen=True)
class Score:
    """Score of an explanation; the balanced accuracy is None exactly where `reason` is set."""

    n_asked: int
    n_positive: int
    """Answered examples on which it fires, or whose marks are right."""
    n_negative: int
    n_true_positive: int
    n_true_negative: int
    balanced_accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    reason: str | None

    @property
    def n_parsed(self) -> int:
        """Examples with a usable answer."""
        return self.n_positive + self.n_negative


@dataclass(frozen=True)
class ExampleAnswer:
    """Truth and answer for one example."""

    truth: bool
    said: bool | None
    """None without a usable answer."""


def score_of(trials: Sequence[Trial], answers: Mapping[str, bool], alpha: float = ALPHA) -> Score:
    """Count the answers by example id; an unanswered example counts only in `n_asked`."""
    return score_of_answers(
        [ExampleAnswer(trial.truth, answers.get(trial.example.id)) for trial in trials], alpha
    )


def score_of_answers(
    answers: Sequence[ExampleAnswer], alpha: float = ALPHA, where: str = "in the score half"
) -> Score:
    """Count the answers; `where` names the source of the examples in the reason.

    The interval combines the Wilson intervals of the two rates by MOVER (Zou and Donner 2008):
    a half of the sum of independent estimates, each with its own lower and upper distance.
    """
    from taxonomy.counts import Side
    from taxonomy.intervals import wilson_interval

    positive = [each.said for each in answers if each.truth and each.said is not None]
    negative = [each.said for each in answers if not each.truth and each.said is not None]
    hits, rejections = sum(positive), sum(not said for said in negative)
    counts = (len(answers), len(positive), len(negative), hits, rejections)
    reason = _reason(answers, positive, negative, where)
    if reason is not None:
        return Score(*counts, None, None, None, reason)
    rates = Side(hits, len(positive)), Side(rejections, len(negative))
    found = [(rate.share, wilson_interval(rate, alpha)) for rate in rates]
    balanced = sum(share for share, _ in found) / 2
    below = math.hypot(*(share - one.low for share, one in found if one is not None)) / 2
    above = math.hypot(*(one.high - share for share, one in found if one is not None)) / 2
    return Score(*counts, balanced, max(0.0, balanced - below), min(1.0, balanced + above), None)


def not_scored(reason: str) -> Score:
    """A score that is undefined because nothing was asked."""
    return Score(0, 0, 0, 0, 0, None, None, None, reason)


def _reason(
    answers: Sequence[ExampleAnswer], positive: Sequence[bool], negative: Sequence[bool], where: str
) -> str | None:
    """Why the balanced accuracy is undefined: a kind of example is missing or unanswered."""
    for truth, answered, words in (
        (True, positive, "positive"),
        (False, negative, "negative"),
    ):
        asked = sum(each.truth is truth for each in answers)
        if not asked:
            return f"no {words} example {where}"
        if not answered:
            return f"none of the {asked} {words} examples was answered"
    return None


@dataclass(frozen=True)
class PairedDifference:
    """Mean of own minus shuffled over latents; None where there are too few pairs."""

    n: int
    own: float | None
    shuffled: float | None
    difference: float | None
    low: float | None
    high: float | None


def paired_difference(
    own: Sequence[float], shuffled: Sequence[float], alpha: float = ALPHA
) -> PairedDifference:
    """Paired t interval over latents, which are the sampled units, not the examples."""
    if len(own) != len(shuffled):
        raise ValueError("own and shuffled scores come in pairs")
    n = len(own)
    if n == 0:
        return PairedDifference(0, None, None, None, None, None)
    means = sum(own) / n, sum(shuffled) / n
    differences = [a - b for a, b in zip(own, shuffled, strict=True)]
    mean = sum(differences) / n
    if n < 2:
        return PairedDifference(n, *means, mean, None, None)
    from scipy.stats import t

    variance = sum((value - mean) ** 2 for value in differences) / (n - 1)
    half = float(t.ppf(1 - alpha / 2, n - 1)) * math.sqrt(variance / n)
    return PairedDifference(n, *means, mean, mean - half, mean + half)
