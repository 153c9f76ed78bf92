"""The examples on which an explanation is tested, and the score that the answers give it.

Detection asks about whole texts without marks. Fuzzing asks about marks: right ones, or marks on
tokens of the same text on which the latent does not fire. Wrong marks have the number, the shape
and the role of the right ones and stand close to them. An example has its strongest token in the
middle, so every text is cropped at random around its marks: their position gives no cue. Each text
is used once.

The score is the balanced accuracy with its interval, next to that of shuffled explanations.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Literal, get_args

import numpy as np

from labeler.judge.base import Example, ShownExample
from labeler.judge.rendering import MARK_SHARE, content_text, turns
from taxonomy.counts import ALPHA, Side

Method = Literal["detection", "fuzzing"]
METHODS: tuple[Method, ...] = get_args(Method)
CROP_SHARE = 0.5
"""Share of an example's tokens that fuzzing shows."""
NEAREST_PLACES = 8
"""Number of places nearest to a right mark among which the wrong one is drawn."""


@dataclass(frozen=True)
class Trial:
    """An example with its right answer."""

    example: ShownExample
    truth: bool


def draw_trials(
    method: Method, windows: Sequence[Example], limit: int, seed: int
) -> tuple[Trial, ...]:
    """Trials of one latent from its score half, at most `limit`, in random order.

    The draw depends on the seed and the evidence alone, so an explanation and its shuffled control
    are tested on the same examples.
    """
    generator = np.random.default_rng(_entropy(method, windows, seed))
    distinct = _distinct(windows)
    if method == "detection":
        drawn = _detection(distinct, limit, generator)
    else:
        drawn = _fuzzing(distinct, limit, generator)
    order = generator.permutation(len(drawn))
    return tuple(
        Trial(replace(drawn[old].example, id=str(new)), drawn[old].truth)
        for new, old in enumerate(order.tolist(), start=1)
    )


def _entropy(method: str, windows: Sequence[Example], seed: int) -> int:
    digest = hashlib.sha256(f"{method}\0{seed}".encode())
    for window in windows:
        digest.update(repr((window.kind, window.tokens, window.activations)).encode("utf-8"))
    return int.from_bytes(digest.digest()[:16], "big")


def _distinct(windows: Iterable[Example]) -> list[Example]:
    """Examples with text, each text once."""
    found: dict[str, Example] = {}
    for window in windows:
        text = " ".join(content_text(window).split())
        if text:
            found.setdefault(text, window)
    return list(found.values())


def _detection(
    windows: Sequence[Example], limit: int, generator: np.random.Generator
) -> list[Trial]:
    firing = [window for window in windows if _fires_on_content(window)]
    inactive = [window for window in windows if window.peak <= 0]
    n_inactive = min(len(inactive), max(limit // 2, limit - len(firing)))
    chosen = [(window, True) for window in _draw(firing, limit - n_inactive, generator)]
    chosen += [(window, False) for window in _draw(inactive, n_inactive, generator)]
    return [Trial(ShownExample("", window), truth) for window, truth in chosen]


def _fires_on_content(window: Example) -> bool:
    return any(window.activations[at] > 0 for turn in turns(window) for at in turn.positions)


def _draw(windows: Sequence[Example], count: int, generator: np.random.Generator) -> list[Example]:
    """Some examples, spread evenly over the kinds."""
    shuffled = [windows[at] for at in generator.permutation(len(windows)).tolist()]
    by_kind: dict[str, list[Example]] = {}
    for window in shuffled:
        by_kind.setdefault(window.kind, []).append(window)
    turn_taking = sorted(
        ((place, kind) for kind, members in by_kind.items() for place in range(len(members)))
    )
    return [by_kind[kind][place] for place, kind in turn_taking[:count]]


def _fuzzing(windows: Sequence[Example], limit: int, generator: np.random.Generator) -> list[Trial]:
    usable = []
    for window in windows:
        right = _right_marks(window)
        wrong = _wrong_marks(window, right, generator) if right else None
        if wrong:
            usable.append((window, right, wrong))
    shuffled = [usable[at] for at in generator.permutation(len(usable)).tolist()][:limit]
    first_is_right = int(generator.integers(2))
    trials = []
    for number, (window, right, wrong) in enumerate(shuffled):
        truth = number % 2 == first_is_right
        trials.append(Trial(_crop(window, right if truth else wrong, generator), truth))
    return trials


def _right_marks(window: Example) -> frozenset[int]:
    """Content tokens on which the latent fires most strongly."""
    content = [at for turn in turns(window) for at in turn.positions]
    peak = max((window.activations[at] for at in content), default=0.0)
    if peak <= 0:
        return frozenset()
    return frozenset(at for at in content if window.activations[at] > MARK_SHARE * peak)


def _wrong_marks(
    window: Example, right: frozenset[int], generator: np.random.Generator
) -> frozenset[int] | None:
    """Inactive tokens in runs of the same lengths and roles; None where there is no room.

    Places whose tokens match the right ones in word starts and punctuation are preferred.
    """
    taken: set[int] = set()
    for run in _runs(sorted(right)):
        places = _places(window, run, taken)
        alike = [place for place in places if _shape(window, place) == _shape(window, run)]
        choice = (alike or places)[:NEAREST_PLACES]
        if not choice:
            return None
        taken.update(choice[int(generator.integers(len(choice)))])
    return frozenset(taken)


def _runs(positions: Sequence[int]) -> list[tuple[int, ...]]:
    """Positions in runs of neighbours."""
    runs = groupby(enumerate(positions), key=lambda item: item[1] - item[0])
    return [tuple(position for _, position in run) for _, run in runs]


def _places(window: Example, run: tuple[int, ...], taken: set[int]) -> list[tuple[int, ...]]:
    """Other places for a run of marks, nearest first."""
    free = {
        at
        for turn in turns(window)
        for at in turn.positions
        if window.activations[at] <= 0 and window.tokens[at].strip() and at not in taken
    }
    shifts = sorted(range(-len(window.tokens), len(window.tokens)), key=lambda s: (abs(s), s))
    moved = (tuple(at + shift for at in run) for shift in shifts)
    roles = [window.roles[at] for at in run]
    return [
        place
        for place in moved
        if free.issuperset(place)
        and [window.roles[at] for at in place] == roles
        and not taken.intersection((place[0] - 1, place[-1] + 1))
    ]


def _shape(window: Example, run: Sequence[int]) -> list[tuple[bool, bool]]:
    """Per token: begins a word, holds a letter or digit."""
    tokens = [window.tokens[at] for at in run]
    return [(token[:1].isspace(), any(map(str.isalnum, token))) for token in tokens]


def _crop(window: Example, marks: frozenset[int], generator: np.random.Generator) -> ShownExample:
    """A part of the example with all marks in it, at a random position."""
    n_tokens = len(window.tokens)
    first, last = min(marks), max(marks)
    span = last - first + 1
    length = min(n_tokens, max(span, round(CROP_SHARE * n_tokens)))
    wanted = first - int(generator.integers(length - span + 1))
    start = min(max(wanted, 0), n_tokens - length)
    part = slice(start, start + length)
    shown = replace(
        window,
        tokens=window.tokens[part],
        roles=window.roles[part],
        activations=window.activations[part],
    )
    return ShownExample("", shown, frozenset(at - start for at in marks))


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
