"""What sets the tokens on which a latent fires apart from matched other text.

Matched text is of the same roles and languages, with the tokens around them on which the latent is
inactive. Shares are compared by log-odds with an informative Dirichlet prior (Monroe, Colaresi and
Quinn 2008), whose standard score says which differences are more than chance; those are ranked by
their part of the Kullback-Leibler divergence, share * log(share / rate).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from labeler.judge.background import Background, Group
from labeler.judge.evidence_statistics import LanguageIdentifier, Reading
from labeler.judge.evidence_units import (
    Feature,
    Unit,
    features_of,
    form_of,
    phrases_of,
    units_of,
)
from labeler.judge.rendering import joined

MOST_TRIGGERS = 4
LEAST_SHARE = 0.04
"""Smallest share of activation of a trigger, beyond that of the triggers before it."""
LONE_SHARE = 0.25
"""Smallest such share of a trigger that comes in one example only."""
LEAST_GAIN = 0.3
"""Smallest part of the divergence of a trigger, in nats."""
LEAST_SCORE = 2.0
"""Smallest standard score of a log-odds ratio."""
LEAST_CONTEXT_SCORE = 2.5
"""The same of a word around the active tokens: many words are compared."""
PRIOR = 10.0
"""Weight of the prior in observations (alpha_0)."""
OBSERVATIONS = 2.0
"""Independent observations per example: its tokens are not independent."""
BACKGROUND_UNITS = 150.0
"""Units of the background that the inactive units of the latent's own examples are added to."""
MOST_FRAMES = 2
MOST_CONTEXT = 2
MOST_RARE = 5
RARE, COMMON = 0.003, 0.01
"""Rates in matched text below which a word tells something by itself, and around other words."""


@dataclass(frozen=True)
class Trigger:
    """A feature on which a latent fires."""

    feature: Feature
    share: float
    """Share of the activation, without that of the triggers before it."""
    spellings: tuple[str, ...]
    """The words or the phrase as the text has them, the strongest first."""
    frames: tuple[str, ...]
    """Longer phrases with it in at least two examples, the most distinctive first."""


@dataclass(frozen=True)
class _Text:
    """A turn of an example."""

    example: int
    text: str
    units: Sequence[Unit]


@dataclass(frozen=True)
class _Place:
    """A unit on which the latent fires."""

    turn: _Text
    at: int
    share: float
    """Share of the activation of all examples, each with the same weight."""
    features: frozenset[Feature]

    @property
    def unit(self) -> Unit:
        """The unit itself."""
        return self.turn.units[self.at]


class Firing:
    """The units of a latent's examples: where it fires, and what it leaves out."""

    def __init__(self, reading: Reading, languages: LanguageIdentifier) -> None:
        self.n_examples = len(reading.windows)
        self.places: list[_Place] = []
        self.n_inactive = 0
        self.inactive: dict[Feature, int] = defaultdict(int)
        """Occurrences of features, in the same examples, in which no unit is active."""
        self.turns: list[_Text] = []
        """The turns in which the latent fires."""
        weights: dict[Group, float] = defaultdict(float)
        for number, window in enumerate(reading.windows):
            found = units_of(window)
            total = sum(unit.activation for _, units in found for unit in units)
            if total == 0:
                continue
            for turn, units in found:
                text = _Text(number, joined(window, turn.positions), units)
                own = self._add(text, total * self.n_examples)
                if own > 0:
                    self.turns.append(text)
                    weights[turn.role, languages.identify(text.text)] += own
        self.mixture = _normalised(weights)

    def _add(self, turn: _Text, total: float) -> float:
        """Add a turn's units; the share of activation on them."""
        active: dict[int, list[Feature]] = {}
        inactive = self.inactive
        for at, unit in enumerate(turn.units):
            features = features_of(unit)
            if unit.activation > 0:
                active[at] = features
                continue
            self.n_inactive += 1
            for feature in features:
                inactive[feature] += 1
        for words, first, last in phrases_of(turn.units):
            inside = [at for at in range(first, last + 1) if at in active] if active else []
            for at in inside:
                active[at].append(f"phrase {words}")
            if not inside:
                inactive[f"phrase {words}"] += 1
        own = 0.0
        for at, features in active.items():
            share = turn.units[at].activation / total
            self.places.append(_Place(turn, at, share, frozenset(features)))
            own += share
        return own


def triggers_of(firing: Firing, background: Background) -> list[Trigger]:
    """The features that best tell where a latent fires, each for what those before leave over."""
    rate = background.rates(firing.mixture)
    candidates = _candidates(firing, rate)
    chosen: list[Trigger] = []
    left = firing.places
    while len(chosen) < MOST_TRIGGERS:
        best = _best(left, candidates, firing.n_examples)
        if best is None:
            break
        feature, share = best
        candidates = {one: known for one, known in candidates.items() if not _adds_to(one, feature)}
        here = [place for place in left if feature in place.features]
        left = [place for place in left if feature not in place.features]
        frames = _frames(feature, here, firing.n_examples, rate)
        chosen.append(Trigger(feature, share, _spellings(feature, here), frames))
    return chosen


@dataclass(frozen=True)
class _Candidate:
    usual: float
    """Rate in the background."""
    matched: float
    """Rate in the background and the inactive text around the active units."""
    n_examples: int


def _candidates(firing: Firing, rate: Callable[[Feature], float]) -> dict[Feature, _Candidate]:
    """The features with enough activation; letters only where they come in several words."""
    examples: dict[Feature, set[int]] = defaultdict(set)
    words: dict[Feature, set[str]] = defaultdict(set)
    for place in firing.places:
        for feature in place.features:
            examples[feature].add(place.turn.example)
            words[feature].add(place.unit.folded)
    shares = _shares(firing.places)
    found = {}
    for feature, numbers in examples.items():
        if shares[feature] < (LEAST_SHARE if len(numbers) > 1 else LONE_SHARE):
            continue
        if feature.startswith("letters ") and len(words[feature]) < 2:
            continue
        usual = rate(feature)
        matched = (usual * BACKGROUND_UNITS + firing.inactive.get(feature, 0)) / (
            BACKGROUND_UNITS + firing.n_inactive
        )
        found[feature] = _Candidate(usual, matched, len(numbers))
    return found


def _best(
    places: Sequence[_Place], candidates: Mapping[Feature, _Candidate], n_examples: int
) -> tuple[Feature, float] | None:
    """The candidate with the largest part of the divergence, and its share; None without any."""
    best: tuple[float, Feature, float] | None = None
    for feature, share in _shares(places).items():
        known = candidates.get(feature)
        if known is None or share < (LEAST_SHARE if known.n_examples > 1 else LONE_SHARE):
            continue
        gain = share * math.log(share / known.matched)
        if gain < LEAST_GAIN or (best is not None and (gain, feature) <= best[:2]):
            continue
        n = OBSERVATIONS * n_examples
        if standard_score(share * n, n, known.matched, known.usual) >= LEAST_SCORE:
            best = (gain, feature, share)
    return None if best is None else best[1:]


def standard_score(count: float, n: float, matched: float, usual: float) -> float:
    """Standard score of the log-odds ratio of a count among n against a matched rate.

    `usual` is the rate that the prior has. The variance is 1 / (count + prior) (Monroe et al.,
    equation 20); the part of the matched text is left out, because that text is far larger.
    """
    own = min(count + PRIOR * usual, n + PRIOR - 0.5)
    ratio = math.log(own / (n + PRIOR - own)) - math.log(matched / (1 - matched))
    return ratio * math.sqrt(own)


def _shares(places: Iterable[_Place]) -> dict[Feature, float]:
    """Share of the activation of each feature at some places."""
    found: dict[Feature, float] = defaultdict(float)
    for place in places:
        for feature in place.features:
            found[feature] += place.share
    return found


def _spellings(feature: Feature, places: Sequence[_Place]) -> tuple[str, ...]:
    form, words = form_of(feature)
    if form == "phrase":
        return (_surface(words, places[0].turn),)
    spelt: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for place in places:
        spelt[place.unit.folded][place.unit.text] += place.share
    ranked = sorted(spelt.values(), key=lambda shares: (-sum(shares.values()), min(shares)))
    return tuple(max(shares, key=lambda text: (shares[text], text)) for shares in ranked)


def _frames(
    feature: Feature, places: Sequence[_Place], n_examples: int, rate: Callable[[Feature], float]
) -> tuple[str, ...]:
    """Longer phrases with the feature in at least two examples, of which none holds another."""
    examples: dict[str, set[int]] = defaultdict(set)
    shown: dict[str, _Text] = {}
    for place in places:
        for form, words in map(form_of, place.features):
            if form == "phrase":
                examples[words].add(place.turn.example)
                shown.setdefault(words, place.turn)
    gains: dict[str, float] = {}
    for words, numbers in examples.items():
        if len(numbers) > 1 and not _holds(form_of(feature)[1], words):
            share = len(numbers) / n_examples
            gains[words] = share * math.log(share / rate(f"phrase {words}"))
    chosen: list[str] = []
    for words in sorted(gains, key=lambda words: (-gains[words], words)):
        if not any(_holds(words, other) or _holds(other, words) for other in chosen):
            chosen.append(words)
    return tuple(_surface(words, shown[words]) for words in chosen[:MOST_FRAMES])


def _surface(phrase: str, turn: _Text) -> str:
    """A phrase as the turn spells it."""
    return next(
        turn.text[turn.units[first].start : turn.units[last].end]
        for words, first, last in phrases_of(turn.units)
        if words == phrase
    )


def _holds(phrase: str, words: str) -> bool:
    """Whether a phrase has some words in a row."""
    return f" {words} " in f" {phrase} "


def _adds_to(feature: Feature, chosen: Feature) -> bool:
    """Whether a feature is a longer phrase with a chosen word or phrase."""
    (form, text), (_, words) = form_of(feature), form_of(chosen)
    return form == "phrase" and _holds(text, words)


def context_of(firing: Firing, known: Collection[str], background: Background) -> list[str]:
    """Words that come again around the active tokens, apart from those already known.

    An example counts once. A word is expected in an example as often as its rate and the example's
    length say.
    """
    rate = background.rates(firing.mixture)
    examples: dict[str, set[int]] = defaultdict(set)
    shown: dict[str, str] = {}
    for turn in firing.turns:
        for unit in turn.units:
            if unit.text[0].isalpha() and unit.folded not in known:
                examples[unit.folded].add(turn.example)
                shown.setdefault(unit.folded, unit.text)
    length = sum(len(turn.units) for turn in firing.turns) / firing.n_examples
    scores: dict[str, float] = {}
    for word, numbers in examples.items():
        if len(numbers) < max(3, firing.n_examples / 3):
            continue
        usual = rate(f"word {word}")
        if usual > COMMON:
            continue
        expected = min(0.9, 1 - (1 - usual) ** length)
        scores[word] = standard_score(len(numbers), firing.n_examples, expected, expected)
    found = [word for word, score in scores.items() if score >= LEAST_CONTEXT_SCORE]
    return [shown[word] for word in sorted(found, key=lambda one: (-scores[one], one))][
        :MOST_CONTEXT
    ]


def rare_words_of(firing: Firing, background: Background) -> list[str]:
    """The rare words with most activation, for a latent that no word sets off by itself."""
    rate = background.rates(firing.mixture)
    shown: dict[str, str] = {}
    for place in firing.places:
        shown.setdefault(place.unit.folded, place.unit.text)
    gains: dict[str, float] = {}
    for feature, share in _shares(firing.places).items():
        form, word = form_of(feature)
        if form == "word" and word[0].isalpha() and len(word) > 2:
            usual = rate(feature)
            if usual <= RARE:
                gains[word] = share * math.log(share / usual)
    ranked = sorted(gains, key=lambda word: (-gains[word], word))
    return [shown[word] for word in ranked[:MOST_RARE]]


def _normalised(weights: Mapping[Group, float]) -> dict[Group, float]:
    total = sum(weights.values())
    return {group: weight / total for group, weight in weights.items()}
