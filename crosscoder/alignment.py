"""Where the pieces of some texts lie in another text that was made of them, in order.

Both sides are cut into words, white space and signs, and the longest common sequence of those is
found; one run of white space equals any other. A text that holds escapes of JSON or HTML is read
with and without them, and the reading with more in common is taken. So collapsing and escaping
leave everything in common. Long texts are first split at stretches that occur once on both sides,
so that time and memory grow about linearly.
"""

from __future__ import annotations

import html
import itertools
import json
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq

# Scripts without spaces between words are cut into characters.
_UNIT = re.compile(r"\s+|[0-9A-Za-z_\u00aa-\u2e7f]+|.", re.DOTALL)
_BLANK = " "
_WORDS = re.compile(r"\w+")
_JSON_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|[\"\\/bfnrt])"
)
_HTML_ESCAPE = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,31});")

_MAX_CELLS = 20_000 * 20_000
"""Largest table of one exact comparison: a bit each."""
_WINDOW = 10_000
"""Units compared at a time where a long stretch holds nothing that occurs once."""
_SHINGLES = (64, 16, 4, 1)
"""Lengths of the stretches that are looked for, in units."""
_MIXER = np.uint64(0xBF58476D1CE4E5B9)
_MIN_WORDS = 3
"""Words that make a piece believable where the text around it comes from nowhere."""


@dataclass(frozen=True)
class Piece:
    """A stretch of the text, [start, end), that comes from one of the sources."""

    start: int
    end: int
    source: int
    source_start: int
    source_end: int


def common_pieces(sources: Sequence[str], text: str) -> list[Piece]:
    """The pieces of the sources, taken in order, that the text holds, by their place in it.

    A piece between stretches of text that no source has counts where it has three words or is
    the whole of its source: single signs and words are found in anything.
    """
    ours = _Units.of(sources)
    readings = [(reading, _Units.of([reading.text])) for reading in _readings(text)]
    if len(readings) == 1:
        return _pieces(sources, ours, *readings[0])
    wanted = Counter(ours.values)

    def n_different(reading: tuple[_Reading, _Units]) -> int:
        return len(reading[1].values) - 2 * (wanted & Counter(reading[1].values)).total()

    return _pieces(sources, ours, *min(readings, key=n_different))


@dataclass(frozen=True)
class _Reading:
    """A text, its escapes replaced by what they stand for."""

    text: str
    starts: NDArray[np.int64]
    """Where each of its characters begins in the text that was read, and where that ends."""


def _readings(text: str) -> Iterator[_Reading]:
    """The text as it stands, and as JSON or HTML where it may be that."""
    yield _Reading(text, np.arange(len(text) + 1))
    for escape, value in ((_JSON_ESCAPE, _from_json), (_HTML_ESCAPE, html.unescape)):
        if not escape.search(text):
            continue
        parts: list[str] = []
        starts: list[NDArray[np.int64]] = []
        reached = 0
        for match in escape.finditer(text):
            character = value(match.group())
            parts += [text[reached : match.start()], character]
            starts += [np.arange(reached, match.start()), np.repeat(match.start(), len(character))]
            reached = match.end()
        parts.append(text[reached:])
        starts.append(np.arange(reached, len(text) + 1))
        yield _Reading("".join(parts), np.concatenate(starts))


def _from_json(escape: str) -> str:
    character: str = json.loads(f'"{escape}"')
    return character


def _pieces(sources: Sequence[str], ours: _Units, reading: _Reading, theirs: _Units) -> list[Piece]:
    known: dict[str, int] = {}
    a = np.array([known.setdefault(value, len(known)) for value in ours.values], dtype=np.int64)
    b = np.array([known.setdefault(value, len(known)) for value in theirs.values], dtype=np.int64)
    pieces: list[Piece] = []
    i = j = 0
    for run in [*_common_runs(a, b), _Run(len(a), len(b), 0)]:
        pieces += _cut_elsewhere(ours, theirs, range(i, run.a), range(j, run.b))
        pieces += _by_source(ours, theirs, run)
        i, j = run.a + run.length, run.b + run.length
    starts = reading.starts
    return [
        replace(piece, start=int(starts[piece.start]), end=int(starts[piece.end]))
        for piece in _believable(pieces, sources, reading.text)
    ]


@dataclass(frozen=True)
class _Units:
    """The units of some texts, one text after the other."""

    texts: Sequence[str]
    values: list[str]
    """What each unit is compared by."""
    owners: list[int]
    """Index of its text."""
    spans: list[tuple[int, int]]
    """[start, end) in that text."""

    @classmethod
    def of(cls, texts: Sequence[str]) -> _Units:
        units = cls(texts, [], [], [])
        for owner, text in enumerate(texts):
            for match in _UNIT.finditer(text):
                unit = match.group()
                units.values.append(_BLANK if unit[0].isspace() else unit)
                units.owners.append(owner)
                units.spans.append(match.span())
        return units

    def unit(self, index: int) -> str:
        """A unit as it stands."""
        start, end = self.spans[index]
        return self.texts[self.owners[index]][start:end]


@dataclass(frozen=True)
class _Run:
    """Units a, a + 1, ... of one side equal b, b + 1, ... of the other."""

    a: int
    b: int
    length: int


def _common_runs(a: NDArray[np.int64], b: NDArray[np.int64]) -> list[_Run]:
    """Common runs in ascending order on both sides."""
    found: list[_Run] = []
    waiting = [(0, len(a), 0, len(b), 0)]
    while waiting:
        a0, a1, b0, b1, depth = waiting.pop()
        head = _equal_length(a[a0:a1], b[b0:b1])
        tail = _equal_length(a[a0 + head : a1][::-1], b[b0 + head : b1][::-1])
        found += [_Run(a0, b0, head), _Run(a1 - tail, b1 - tail, tail)]
        a0, a1, b0, b1 = a0 + head, a1 - tail, b0 + head, b1 - tail
        if a0 == a1 or b0 == b1:
            continue
        if (a1 - a0) * (b1 - b0) <= _MAX_CELLS:
            found += _longest_common(a, b, a0, a1, b0, b1)
        elif depth < len(_SHINGLES):
            waiting += _split_at_anchors(a, b, (a0, a1, b0, b1), depth)
        else:
            found += _by_window(a, b, a0, a1, b0, b1)
    return sorted((run for run in found if run.length), key=lambda run: run.a)


def _equal_length(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """How many units both begin with."""
    shorter = min(len(a), len(b))
    differs = np.flatnonzero(a[:shorter] != b[:shorter])
    return int(differs[0]) if len(differs) else shorter


def _longest_common(
    a: NDArray[np.int64], b: NDArray[np.int64], a0: int, a1: int, b0: int, b1: int
) -> list[_Run]:
    return [
        _Run(a0 + row.src_start, b0 + row.dest_start, row.src_end - row.src_start)
        for row in LCSseq.opcodes(a[a0:a1].tolist(), b[b0:b1].tolist())
        if row.tag == "equal"
    ]


def _by_window(
    a: NDArray[np.int64], b: NDArray[np.int64], a0: int, a1: int, b0: int, b1: int
) -> Iterator[_Run]:
    """Compare a window at a time, going on after the last unit in common: not always longest."""
    while a0 < a1 and b0 < b1:
        a2, b2 = min(a0 + _WINDOW, a1), min(b0 + _WINDOW, b1)
        runs = _longest_common(a, b, a0, a2, b0, b2)
        yield from runs
        last = runs[-1] if runs else _Run(a2, b2, 0)
        a0, b0 = last.a + last.length, last.b + last.length
        if max(a2 - a0, b2 - b0) > _WINDOW // 2:
            a0, b0 = a2, b2


def _split_at_anchors(
    a: NDArray[np.int64], b: NDArray[np.int64], part: tuple[int, int, int, int], depth: int
) -> Iterator[tuple[int, int, int, int, int]]:
    """The part cut before each stretch that occurs once on both sides, in an order of both."""
    a0, a1, b0, b1 = part
    places_a, places_b = _unique_in_both(a[a0:a1], b[b0:b1], _SHINGLES[depth])
    cuts = [(a0 + i, b0 + j) for i, j in _ascending(places_a, places_b)]
    bounds = [(a0, b0), *cuts, (a1, b1)]
    for (i, j), (k, m) in itertools.pairwise(bounds):
        # Without a cut the same part is looked at in finer detail.
        yield i, k, j, m, depth + 1


def _unique_in_both(
    a: NDArray[np.int64], b: NDArray[np.int64], size: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where stretches begin that occur once in a and once in b: their places, by those in a.

    Of stretches that follow each other on both sides only the first is kept.
    """
    keys_a, in_a = _once(a, size)
    keys_b, in_b = _once(b, size)
    _, of_a, of_b = np.intersect1d(keys_a, keys_b, assume_unique=True, return_indices=True)
    places_a, places_b = in_a[of_a], in_b[of_b]
    order = np.argsort(places_a)
    places_a, places_b = places_a[order], places_b[order]
    follows = (np.diff(places_a, prepend=-2) == 1) & (np.diff(places_b, prepend=-2) == 1)
    return places_a[~follows], places_b[~follows]


def _once(units: NDArray[np.int64], size: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hash and place of each stretch of `size` units, a power of two, that occurs once."""
    hashes = (units.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    width = 1
    while width < size and len(hashes) > width:
        mixed = (hashes[:-width] ^ (hashes[:-width] >> np.uint64(29))) * _MIXER
        hashes = mixed + hashes[width:]
        width *= 2
    keys, places, counts = np.unique(hashes, return_index=True, return_counts=True)
    return keys[counts == 1], places[counts == 1]


def _ascending(firsts: NDArray[np.int64], seconds: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The longest chain of pairs that ascends in both; the first ones ascend already."""
    ends: list[int] = []
    members: list[int] = []
    before: list[int] = []
    for index, second in enumerate(seconds.tolist()):
        at = bisect_left(ends, second)
        before.append(members[at - 1] if at else -1)
        if at == len(ends):
            ends.append(second)
            members.append(index)
        else:
            ends[at], members[at] = second, index
    chain = []
    index = members[-1] if members else -1
    while index >= 0:
        chain.append((int(firsts[index]), int(seconds[index])))
        index = before[index]
    return chain[::-1]


def _by_source(ours: _Units, theirs: _Units, run: _Run) -> Iterator[Piece]:
    """The pieces of a run, cut where one source ends."""
    at = 0
    while at < run.length:
        owner = ours.owners[run.a + at]
        end = at + 1
        while end < run.length and ours.owners[run.a + end] == owner:
            end += 1
        first, last = run.a + at, run.a + end - 1
        yield Piece(
            theirs.spans[run.b + at][0],
            theirs.spans[run.b + end - 1][1],
            owner,
            ours.spans[first][0],
            ours.spans[last][1],
        )
        at = end


def _cut_elsewhere(ours: _Units, theirs: _Units, a: range, b: range) -> Iterator[Piece]:
    """The whole units of the sources at either end of a stretch where both differ.

    The text has no border where one source ends and the next begins, so words may run together.
    """
    if not a or not b:
        return
    text = theirs.texts[0]
    start, end = theirs.spans[b[0]][0], theirs.spans[b[-1]][1]
    n_ahead = 0
    for i in a:
        unit = ours.unit(i)
        if not text.startswith(unit, start, end):
            break
        yield Piece(start, start + len(unit), ours.owners[i], *ours.spans[i])
        start += len(unit)
        n_ahead += 1
    for i in reversed(a[n_ahead:]):
        unit = ours.unit(i)
        if not text.endswith(unit, start, end):
            break
        yield Piece(end - len(unit), end, ours.owners[i], *ours.spans[i])
        end -= len(unit)


def _believable(pieces: list[Piece], sources: Sequence[str], text: str) -> Iterator[Piece]:
    pieces = sorted(pieces, key=lambda piece: piece.start)
    bounds = [(len(each) - len(each.lstrip()), len(each.rstrip())) for each in sources]
    reached = 0
    for index, piece in enumerate(pieces):
        following = pieces[index + 1].start if index + 1 < len(pieces) else len(text)
        before, after = text[reached : piece.start], text[piece.end : following]
        first, last = bounds[piece.source]
        is_whole = piece.source_start <= first and piece.source_end >= last
        if is_whole or not (before.strip() and after.strip()) or _has_words(text, piece):
            yield piece
        reached = piece.end


def _has_words(text: str, piece: Piece) -> bool:
    words = _WORDS.finditer(text, piece.start, piece.end)
    return sum(1 for _ in itertools.islice(words, _MIN_WORDS)) == _MIN_WORDS
