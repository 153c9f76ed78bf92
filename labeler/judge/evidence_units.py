"""Text as units (words, numbers, marks, line breaks) with the features that can be told of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from labeler.judge.base import CONTENT_ROLES, Example
from labeler.judge.rendering import Turn, joined, turns

MOST_WORDS = 4
"""Words of the longest phrase."""
MOST_LETTERS = 6
"""Letters of the longest part of a word that counts by itself."""
_UNIT = re.compile(
    r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*|\d+(?:[.,:/]\d+)*|\n+|([^\w\s]|_)\1*", re.UNICODE
)
_UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]")
"""Kana and Chinese characters: text without spaces is read character by character."""
LINE_BREAK = "\n"


Feature = str
"""What units have in common: `word you`, `phrase at the`, `letters ä`, `kind numbers`.

The first word is the form, the rest folded words joined by spaces, or letters, or a kind's name.
"""


def form_of(feature: Feature) -> tuple[str, str]:
    """The form of a feature and its text."""
    form, _, text = feature.partition(" ")
    return form, text


class Unit(NamedTuple):
    """A word, number, mark or line break of a turn."""

    text: str
    start: int
    """First character within the turn."""
    end: int
    folded: str
    activation: float
    letters: str
    """The part of the word on which the latent fires most, where a token ends within it."""
    kinds: frozenset[str]


_MARKS = {
    "full stops": ".\u2026\u3002",
    "commas": ",\uff0c\u3001\u060c",
    "question marks": "?\uff1f\u061f\u00bf",
    "exclamation marks": "!\uff01\u00a1",
    "colons": ":\uff1a",
    "semicolons": ";",
    "quotation marks": "\"\u201c\u201d\u201e\u00ab\u00bb\u2018\u300c\u300d",
    "brackets": "()[]{}",
    "dashes": "-\u2013\u2014",
    "table bars": "|",
    "code signs": "`=_#$\\<>&@^~",
    "asterisks": "*",
}  # fmt: skip
_MARK_KIND = {mark: kind for kind, marks in _MARKS.items() for mark in marks}
_WORD_LISTS = {
    "first-person words": "i me my mine myself i'm i've i'd i'll we us our ours we're we've we'll",
    "second-person words": "you your yours yourself you're you've you'd you'll",
    "negations": (
        "no not never none nothing nobody nor neither cannot can't don't doesn't didn't won't "
        "wouldn't isn't aren't wasn't weren't haven't hasn't hadn't couldn't shouldn't needn't"
    ),
}
_WORD_KIND = {word: kind for kind, words in _WORD_LISTS.items() for word in words.split()}
_SENTENCE_END = frozenset(".!?\u2026\u3002\uff01\uff1f\n")
KINDS = (
    *_MARKS,
    *_WORD_LISTS,
    "line breaks",
    "numbers",
    "capitalised words",
    "words in capitals",
    "first words of sentences",
    "accented words",
)
"""Kinds of units, by the plural that names them in an explanation."""


def units_of_turn(window: Example, turn: Turn) -> list[Unit]:
    """The units of a turn in their order; a token's activation is shared out to those it touches.

    Parts of a word that the example cuts off at its edges count as words.
    """
    text = joined(window, turn.positions)
    spans = _spans(text)
    activations = [0.0] * len(spans)
    letters = _share_out(window, turn, text, spans, activations)
    units = []
    begins = _shows_start(window, turn)
    for at, (start, end) in enumerate(spans):
        unit = text[start:end]
        units.append(
            Unit(
                unit,
                start,
                end,
                _folded(unit),
                activations[at],
                letters.get(at, ""),
                _kinds_of(unit, begins),
            )
        )
        begins = unit[0] in _SENTENCE_END
    return units


def _spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each unit."""
    spans = [match.span() for match in _UNIT.finditer(text)]
    if text.isascii() or not _UNSPACED.search(text):
        return spans
    return [part for start, end in spans for part in _parts(text, start, end)]


def _parts(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """A unit without its characters of unspaced scripts, and each of these by itself."""
    begin = start
    for match in _UNSPACED.finditer(text, start, end):
        if match.start() > begin:
            yield begin, match.start()
        yield match.span()
        begin = match.end()
    if begin < end:
        yield begin, end


def _share_out(
    window: Example,
    turn: Turn,
    text: str,
    spans: Sequence[tuple[int, int]],
    activations: list[float],
) -> dict[int, str]:
    """Add the tokens' activations to those of the units; the strongest part of split words."""
    strongest: dict[int, tuple[float, str]] = {}
    begin = first = 0
    for position in turn.positions:
        token, activation = window.tokens[position], window.activations[position]
        end = begin + len(token)
        if activation > 0:
            inside = end - len(token.lstrip(" "))
            while first < len(spans) and spans[first][1] <= inside:
                first += 1
            last = first
            # The first bytes of a character are a token without text: the next unit gets it.
            while last < len(spans) and spans[last][0] < max(end, begin + 1):
                last += 1
            for at in range(first, last):
                share = activation / (last - first)
                activations[at] += share
                start, stop = spans[at]
                if share > strongest.get(at, (0.0, ""))[0]:
                    part = text[max(inside, start) : min(end, stop)]
                    is_part = len(part) < stop - start and part.strip("'\u2019").isalpha()
                    strongest[at] = (share, part.casefold() if is_part else "")
        begin = end
    return {at: part for at, (_, part) in strongest.items() if part}


def units_of(window: Example) -> list[tuple[Turn, list[Unit]]]:
    """Each turn of an example with its units; turns without any are left out."""
    found = ((turn, units_of_turn(window, turn)) for turn in turns(window))
    return [(turn, units) for turn, units in found if units]


def folded_words(text: str) -> str:
    """A phrase as features name it: folded units joined by spaces."""
    return " ".join(_folded(text[start:end]) for start, end in _spans(text))


def features_of(unit: Unit) -> list[Feature]:
    """The features that a unit has by itself: its kinds, its word, a part of the word."""
    found = [f"kind {kind}" for kind in unit.kinds]
    if unit.text[0].isalnum() or not unit.kinds:
        found.append(f"word {unit.folded}")
    if unit.letters and len(unit.letters) <= MOST_LETTERS:
        found.append(f"letters {unit.letters}")
    return found


def phrases_of(units: Sequence[Unit]) -> Iterator[tuple[str, int, int]]:
    """The phrases of a turn with their first and last unit: 2 to 4 units on one line.

    A phrase begins and ends with a word.
    """
    for first, unit in enumerate(units):
        if not unit.text[0].isalnum():
            continue
        words = unit.folded
        for last in range(first + 1, min(first + MOST_WORDS, len(units))):
            text = units[last].text
            if text[0] == LINE_BREAK:
                break
            words = f"{words} {units[last].folded}"
            if text[0].isalnum():
                yield words, first, last


def occurrences(units: Sequence[Unit]) -> Iterator[Feature]:
    """Kinds, words and phrases of a turn, as often as they occur."""
    for unit in units:
        yield from features_of(unit)
    yield from (f"phrase {words}" for words, _, _ in phrases_of(units))


def _folded(text: str) -> str:
    folded = text.casefold()
    return folded if folded.isascii() else folded.replace("\u2019", "'")


def _shows_start(window: Example, turn: Turn) -> bool:
    before = turn.positions[0] - 1
    return before >= 0 and window.roles[before] not in CONTENT_ROLES


@lru_cache(maxsize=50_000)
def _kinds_of(unit: str, begins_sentence: bool) -> frozenset[str]:
    """The kinds of a unit; corpora repeat their words."""
    first = unit[0]
    if first == LINE_BREAK:
        return frozenset({"line breaks"})
    if first.isdigit():
        return frozenset({"numbers"})
    if first.isalpha():
        return frozenset(_word_kinds(unit, begins_sentence))
    kind = _MARK_KIND.get(first)
    return frozenset() if kind is None else frozenset({kind})


def _word_kinds(word: str, begins_sentence: bool) -> Iterator[str]:
    known = _WORD_KIND.get(_folded(word))
    if known is not None:
        yield known
    if begins_sentence:
        yield "first words of sentences"
    elif word[0].isupper() and known is None:
        yield "capitalised words"
    if len(word) > 1 and word.isupper():
        yield "words in capitals"
    if not word.isascii() and any("\u00c0" <= letter <= "\u024f" for letter in word):
        yield "accented words"
