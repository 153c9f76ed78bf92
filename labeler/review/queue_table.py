"""The queue of a comparison as columns, and the filters of a URL that choose rows of it."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import Any
from urllib.parse import urlencode

import numpy as np
from numpy.typing import NDArray

from crosscoder.config import STABLE_FROM
from labeler.errors import UsageError
from labeler.review.queued_latents import QueuedLatent, Setting
from labeler.store.outcomes import LABELLED, WITHOUT_CATEGORY

ORDERS = {
    "uncertain": "uncertain first",
    "teaches": "teaches the judge most first",
    "disagreement": "disagreement first",
    "random": "random",
    "index": "by number",
}
CHOICES: dict[str, dict[str, str]] = {
    "side": {"target": "target", "reference": "reference"},
    "source": {"judge": "judge", "human": "reviewer", "import": "import", "nobody": "nobody"},
    "status": {"open": "open", "reviewed": "reviewed", "conflict": "reviewers disagree"},
    "mine": {"todo": "to do", "decided": "decided by me", "skipped": "skipped by me"},
    "confidence": {
        "low": "below 0.5", "middle": "0.5 to 0.8", "high": "0.8 and more", "unknown": "not stated",
    },
    "disagreement": {"yes": "judges disagree", "no": "judges agree"},
    "audit": {"drawn": "in the random draw", "todo": "blind, to do"},
    "stable": {"yes": "comes again", "no": "does not come again"},
}  # fmt: skip
"""Values of each filter, with the words that a page shows; categories come from the taxonomy."""
LABEL_FILTERS = ("category", "source", "confidence", "disagreement", "text")
"""Filters that would tell a blind reviewer what the judge said."""
LONGEST_TEXT = 200
NOBODY = -1
"""Code of an answer that nobody gave."""
Counts = NDArray[np.int64]
"""(answers, answers) latents by the answers of two parties."""
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
FEW_MOVED = 500
"""Latents that are moved within an order one by one; for more of them it is sorted again."""
_SOURCES = ("judge", "human", "import", "nobody")
_CONFIDENCES = ("low", "middle", "high", "unknown")
_CONFIDENCE_EDGES = (0.5, 0.8)
_HASH_STEP = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Filters:
    """Empty = all."""

    comparison: str = ""
    side: str = ""
    category: str = ""
    source: str = ""
    status: str = ""
    mine: str = ""
    confidence: str = ""
    disagreement: str = ""
    audit: str = ""
    stable: str = ""
    text: str = ""
    order: str = "uncertain"

    @classmethod
    def read(cls, query: Mapping[str, str]) -> Filters:
        """The filters of a query string; UsageError for a value that a filter does not know."""
        values: dict[str, Any] = {
            field.name: query[field.name].strip()
            for field in fields(cls)
            if query.get(field.name, "").strip()
        }
        for name, known in {**CHOICES, "order": ORDERS}.items():
            if values.get(name) and values[name] not in known:
                raise UsageError(
                    f"{name}: {values[name]!r} is not known; choose from {', '.join(known)}"
                )
        if "text" in values:
            values["text"] = values["text"][:LONGEST_TEXT]
        return cls(**values)

    def query(self, **changes: str) -> str:
        """A query string of these filters with some changed, empty ones left out."""
        changed = replace(self, **changes)
        pairs = {
            field.name: getattr(changed, field.name)
            for field in fields(changed)
            if getattr(changed, field.name) != field.default
        }
        return urlencode(pairs)

    @property
    def tells_label(self) -> bool:
        """Whether being listed would tell something of the judge's label."""
        return any(getattr(self, name) for name in LABEL_FILTERS)

    @property
    def active(self) -> dict[str, str]:
        """The filters that are set, without comparison and order."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.name not in ("comparison", "order") and getattr(self, field.name)
        }


class PairCounts:
    """The counts of every pair of reviewers who decided on the same latent."""

    def __init__(self, n_answers: int) -> None:
        self._n_answers = n_answers
        self._pairs: defaultdict[tuple[str, str], Counter[tuple[int, int]]] = defaultdict(Counter)

    def add(self, voices: Mapping[str, int]) -> None:
        """Count one latent: code of the answer that stands, by reviewer."""
        self._count(voices, 1)

    def remove(self, voices: Mapping[str, int]) -> None:
        """Take back what `add` counted."""
        self._count(voices, -1)

    def of(self, first: str, second: str) -> Counts:
        """(answers, answers) latents by the answers of the first and of the second reviewer."""
        counts = np.zeros((self._n_answers, self._n_answers), np.int64)
        is_swapped = second < first
        for answers, n in self._pairs.get(_key(first, second), {}).items():
            counts[answers[::-1] if is_swapped else answers] = n
        return counts

    def _count(self, voices: Mapping[str, int], step: int) -> None:
        if len(voices) < 2:
            return
        given = sorted(pair for pair in voices.items() if pair[1] != NOBODY)
        for (first, one), (second, other) in combinations(given, 2):
            self._pairs[first, second][one, other] += step


def _key(first: str, second: str) -> tuple[str, str]:
    return (first, second) if first < second else (second, first)


@dataclass(frozen=True)
class Leaf:
    """A category of the active version."""

    slug: str
    name: str
    parent: str | None
    definition: str = ""
    include_when: str = ""
    exclude_when: str = ""


class QueueTable:
    """All latents of a comparison in columns; a changed label or stream replaces its latent."""

    def __init__(
        self,
        setting: Setting,
        categories: Sequence[Leaf],
        latents: Sequence[QueuedLatent],
        next_reviews: Sequence[int] = (),
    ) -> None:
        """`next_reviews` are the latents whose reviews teach the judge most, by id, in order."""
        self.setting = setting
        self._next = {latent_id: place for place, latent_id in enumerate(next_reviews)}
        self.categories = {leaf.slug: leaf for leaf in categories}
        self.answers = [*self.categories, *WITHOUT_CATEGORY]
        self._codes = {answer: code for code, answer in enumerate(self.answers)}
        parents = [leaf.parent or leaf.slug for leaf in categories] + list(WITHOUT_CATEGORY)
        self._parents = np.array([self._codes[parent] for parent in parents])
        self.latents = list(latents)
        self.rows_of: dict[int, list[int]] = {}
        n = len(self.latents)
        self.latent_id = np.zeros(n, np.int64)
        self.latent_index = np.zeros(n, np.int64)
        self.is_target = np.zeros(n, np.bool_)
        self.answer = np.zeros(n, np.int32)
        self.source = np.zeros(n, np.int8)
        self.confidence = np.zeros(n, np.float64)
        self.disagreement = np.zeros(n, np.float64)
        self.priority = np.zeros(n, np.float64)
        self.reviewed = np.zeros(n, np.bool_)
        self.conflict = np.zeros(n, np.bool_)
        self.audit = np.zeros(n, np.int64)
        self.p_reappear = np.zeros(n, np.float64)
        self.judge_answer = np.full(n, NOBODY, np.int32)
        self.blind = np.zeros(n, np.bool_)
        self.reviewers: set[str] = set()
        self.pairs = PairCounts(len(self.answers))
        self._text: list[str] = [""] * n
        self._mine: dict[str, Mine] = {}
        self._orders: dict[str, Rows] = {}
        self._found: dict[str, Mask] = {}
        for row, latent in enumerate(self.latents):
            self.rows_of.setdefault(latent.latent_id, []).append(row)
            self._put(row, latent)
        self.random = _scrambled(self.latent_id)

    def replace(self, latents: Sequence[QueuedLatent]) -> None:
        """Replace latents by newer readings of them; unknown latents are ignored."""
        moved: set[int] = set()
        for latent in latents:
            for row in self.rows_of.get(latent.latent_id, ()):
                if self.latents[row].side == latent.side:
                    if _order_facts(self.latents[row]) != _order_facts(latent):
                        moved.add(row)
                    self.pairs.remove(self._voice_codes(self.latents[row]))
                    self.latents[row] = latent
                    self._put(row, latent)
                    for reviewer, mine in self._mine.items():
                        mine.put(row, latent, reviewer, self.code(latent.voices.get(reviewer)))
        if len(moved) > FEW_MOVED:
            self._orders.clear()
        elif moved:
            for name, order in self._orders.items():
                self._orders[name] = _moved(order, sorted(moved), self.sort_keys(name))
        self._found.clear()

    def _put(self, row: int, latent: QueuedLatent) -> None:
        self.latent_id[row] = latent.latent_id
        self.latent_index[row] = latent.latent_index
        self.is_target[row] = latent.side == "target"
        self.answer[row] = self._codes.get(latent.answer, self._codes["unlabelled"])
        self.source[row] = _SOURCES.index(latent.source or "nobody")
        self.confidence[row] = np.nan if latent.confidence is None else latent.confidence
        self.disagreement[row] = latent.disagreement
        self.priority[row] = latent.priority
        self.reviewed[row] = latent.reviewed
        self.conflict[row] = latent.conflict
        self.audit[row] = latent.audit.position if latent.audit else 0
        self.p_reappear[row] = np.nan if latent.p_reappear is None else latent.p_reappear
        self.judge_answer[row] = self.code(latent.judge_answer)
        self.blind[row] = bool(latent.blind)
        self.reviewers.update(latent.touched, latent.skipped)
        self.pairs.add(self._voice_codes(latent))
        self._text[row] = (
            f"{latent.crosscoder}:{latent.latent_index} {latent.explanation}".casefold()
        )

    def _voice_codes(self, latent: QueuedLatent) -> dict[str, int]:
        return {reviewer: self.code(answer) for reviewer, answer in latent.voices.items()}

    def code(self, answer: str | None) -> int:
        """Index of an answer among `answers`; NOBODY for None."""
        return NOBODY if answer is None else self._codes.get(answer, NOBODY)

    def mine(self, reviewer: str) -> Mine:
        """What a reviewer did, latent by latent."""
        if reviewer not in self._mine:
            mine = Mine(len(self.latents))
            for row, latent in enumerate(self.latents):
                if latent.touched or latent.skipped:
                    mine.put(row, latent, reviewer, self.code(latent.voices.get(reviewer)))
            self._mine[reviewer] = mine
        return self._mine[reviewer]

    def hidden(self, reviewer: str) -> Mask:
        """(n,) latents whose label the reviewer must not see yet."""
        return (self.audit > 0) & ~self.mine(reviewer).touched

    def masks(self, filters: Filters, reviewer: str) -> dict[str, Mask]:
        """One mask for each filter that is set."""
        mine = self.mine(reviewer)
        made = {
            "side": lambda value: self.is_target == (value == "target"),
            "category": self.in_category,
            "source": lambda value: self.source == _SOURCES.index(value),
            "status": lambda value: self.by_status()[value],
            "mine": lambda value: self.by_mine(mine)[value],
            "confidence": lambda value: self.confidence_bin() == _CONFIDENCES.index(value),
            "disagreement": lambda value: (self.disagreement > 0) == (value == "yes"),
            "audit": lambda value: (self.audit > 0) & ((value == "drawn") | ~mine.decided),
            "stable": lambda value: self.by_stability()[value],
            "text": self.with_text,
        }
        masks = {name: made[name](value) for name, value in filters.active.items()}
        if filters.tells_label:
            masks["blind"] = ~self.hidden(reviewer)
        return masks

    def in_category(self, slug: str) -> Mask:
        """(n,) latents whose primary category, or its parent, or whose outcome it is."""
        code = self._codes.get(slug, -1)
        inside: Mask = (self.answer == code) | (self._parents[self.answer] == code)
        return inside

    def labelled(self) -> Mask:
        """(n,) latents that count: with a category, or with none of them."""
        codes = [self._codes[name] for name in WITHOUT_CATEGORY if name not in LABELLED]
        return ~np.isin(self.answer, codes)

    def assigned(self) -> Mask:
        """(n,) latents with a category."""
        return ~np.isin(self.answer, [self._codes[outcome] for outcome in WITHOUT_CATEGORY])

    def isolated(self) -> Mask:
        """(n,) all latents."""
        return np.ones(len(self.latents), np.bool_)

    def in_tree_order(self) -> list[tuple[str, Leaf]]:
        """Slug and category, each group before its categories."""
        pairs: list[tuple[str, Leaf]] = []
        for slug, group in self.categories.items():
            if group.parent is None:
                pairs.append((slug, group))
                pairs += [p for p in self.categories.items() if p[1].parent == slug]
        return pairs

    def by_status(self) -> Mapping[str, Mask]:
        """Mask by status."""
        return {
            "open": ~self.reviewed,
            "reviewed": self.reviewed,
            "conflict": self.conflict,
        }

    def by_stability(self) -> Mapping[str, Mask]:
        """Whether a latent comes again in enough other seeds; neither where there are none."""
        return {
            "yes": self.p_reappear >= STABLE_FROM,
            "no": self.p_reappear < STABLE_FROM,
        }

    def by_mine(self, mine: Mine) -> Mapping[str, Mask]:
        """Mask by what one reviewer did."""
        return {
            "todo": ~mine.decided & ~mine.skipped,
            "decided": mine.decided,
            "skipped": mine.skipped & ~mine.decided,
        }

    def confidence_bin(self) -> NDArray[np.int64]:
        """(n,) index of the confidence's range."""
        bins = np.digitize(self.confidence, _CONFIDENCE_EDGES)
        return np.where(np.isnan(self.confidence), len(_CONFIDENCE_EDGES) + 1, bins)

    def with_text(self, words: str) -> Mask:
        """(n,) latents whose name or explanation contains the words."""
        wanted = words.casefold()
        if wanted not in self._found:
            if len(self._found) > 20:
                self._found.clear()
            self._found[wanted] = np.fromiter(
                (wanted in text for text in self._text), np.bool_, len(self._text)
            )
        return self._found[wanted]

    def count_by(self, name: str, mask: Mask, reviewer: str) -> dict[str, int]:
        """How many latents of a mask each value of a filter would keep."""
        if name == "side":
            n = int(self.is_target[mask].sum())
            return {"target": n, "reference": int(mask.sum()) - n}
        if name == "category":
            return self._count_categories(mask)
        if name == "source":
            return _counted(self.source[mask], _SOURCES)
        if name == "confidence":
            return _counted(self.confidence_bin()[mask], _CONFIDENCES)
        if name == "disagreement":
            n = int((self.disagreement[mask] > 0).sum())
            return {"yes": n, "no": int(mask.sum()) - n}
        mine = self.mine(reviewer)
        if name == "audit":
            drawn = mask & (self.audit > 0)
            return {"drawn": int(drawn.sum()), "todo": int((drawn & ~mine.decided).sum())}
        if name == "stable":
            by_value = self.by_stability()
        else:
            by_value = self.by_status() if name == "status" else self.by_mine(mine)
        return {value: int((mask & hit).sum()) for value, hit in by_value.items()}

    def _count_categories(self, mask: Mask) -> dict[str, int]:
        own = np.bincount(self.answer[mask], minlength=len(self.answers))
        counts = {answer: int(n) for answer, n in zip(self.answers, own, strict=True)}
        for slug, leaf in self.categories.items():
            if leaf.parent is not None:
                counts[leaf.parent] += counts[slug]
        return counts

    def sort_keys(self, name: str) -> tuple[NDArray[Any], ...]:
        """Keys of an order, the least significant first, as `lexsort` takes them."""
        keys: dict[str, Callable[[], tuple[NDArray[Any], ...]]] = {
            "uncertain": lambda: (self.latent_id, -self.priority),
            "teaches": lambda: (self.latent_id, -self.priority, self._place_among_next()),
            "disagreement": lambda: (self.latent_id, -self.priority, -self.disagreement),
            "random": lambda: (self.latent_id, self.random, self._audit_position()),
            "index": lambda: (
                self.latent_id, self.latent_index, (~self.is_target).astype(np.int64)
            ),
        }  # fmt: skip
        return keys[name]()

    def order(self, name: str) -> Rows:
        """(n,) rows in an order, ties by latent."""
        if name not in self._orders:
            self._orders[name] = np.lexsort(self.sort_keys(name))
        return self._orders[name]

    def _place_among_next(self) -> Rows:
        """(n,) place among the next reviews. The random draws have none: they stay random."""
        last = len(self._next)
        places = [self._next.get(int(latent_id), last) for latent_id in self.latent_id]
        return np.where(self.audit > 0, last, np.array(places, np.int64))

    def _audit_position(self) -> Rows:
        last = np.iinfo(np.int64).max
        return np.where(self.audit > 0, self.audit, last)

    def find(self, latent_id: int) -> QueuedLatent | None:
        """The latent with this id, the target one where it lies on both sides; None without one."""
        rows = self.rows_of.get(latent_id, ())
        latents = [self.latents[row] for row in rows]
        return max(latents, key=lambda latent: latent.side, default=None)


def _order_facts(latent: QueuedLatent) -> tuple[object, ...]:
    """What the orders depend on: most decisions leave it as it was."""
    return latent.priority, latent.disagreement, latent.audit


def _moved(order: Rows, rows: Sequence[int], keys: Sequence[NDArray[Any]]) -> Rows:
    """(n,) the order after the keys of some rows have changed: what sorting again would give."""
    stays = np.ones(len(order), np.bool_)
    stays[rows] = False
    rest = order[stays[order]]

    def key_of(row: int) -> tuple[Any, ...]:
        return (*(key[row] for key in reversed(keys)), row)

    by_key = sorted(rows, key=key_of)
    at = [bisect_left(rest, key_of(row), key=key_of) for row in by_key]
    return np.insert(rest, at, by_key)


class Mine:
    """Masks of one reviewer."""

    def __init__(self, n: int) -> None:
        self.decided = np.zeros(n, np.bool_)
        self.touched = np.zeros(n, np.bool_)
        self.skipped = np.zeros(n, np.bool_)
        self.blind = np.zeros(n, np.bool_)
        self.answer = np.full(n, NOBODY, np.int32)

    def put(self, row: int, latent: QueuedLatent, reviewer: str, answer: int) -> None:
        """Copy a reviewer's part of a latent; `answer` is the code of their current answer."""
        self.answer[row] = answer
        self.blind[row] = reviewer in latent.blind
        self.decided[row] = reviewer in latent.voices
        self.touched[row] = reviewer in latent.touched
        self.skipped[row] = reviewer in latent.skipped


def _counted(codes: NDArray[np.generic], names: Sequence[str]) -> dict[str, int]:
    counts = np.bincount(np.asarray(codes, np.int64), minlength=len(names))
    return {name: int(n) for name, n in zip(names, counts, strict=True)}


def _scrambled(ids: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(n,) a fixed pseudo-random order of latents (the mixing steps of SplitMix64)."""
    mixed = ids.astype(np.uint64) * np.uint64(_HASH_STEP)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return mixed ^ (mixed >> np.uint64(31))
