"""Latents that no category describes, made from the windows of labelled ones.

Most latents of a real dictionary fire on one small word, or on words without a common subject. Few
of them can be written by hand, and the texts around them are those of the corpus: if half of it is
refusals, half of the windows of "the" are refusals. So windows of labelled latents, with a random
share of each category, get other active tokens: one small word for `function-words`; one content
word, or any content words, for `none`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from labeler.judge.base import CONTENT_ROLES, Example, LatentRecord
from labeler.judge.labelled_evidence import NONE, LabelledLatent
from labeler.judge.token_kinds import GRAMMAR_WORDS, SPEECH_WORDS, plain_word

FUNCTION_WORDS = "function-words"
"""Slug of the category of small words and marks."""
N_MIXED = 80
"""Mixed latents of each of the two categories."""
N_WINDOWS = 6
CONCENTRATION = 0.4
"""Of the Dirichlet distribution of a mixed latent's windows over the categories."""
MAX_SHARE = 0.5
"""Largest expected share of one category, before the shares are scaled to sum to 1."""
MIN_WINDOWS, MIN_CATEGORIES = 12, 4
"""Fewest windows with a small word, and fewest categories with a content word."""
_MARKS = frozenset(".,;:!?\"()-'")


@dataclass(frozen=True)
class _Found:
    category: str
    window: Example


def mixed_latents(
    labelled: Sequence[LabelledLatent], n: int = N_MIXED, seed: int = 0
) -> tuple[LabelledLatent, ...]:
    """`n` latents of `function-words`, if small words recur, and `n` of `none`."""
    random = np.random.default_rng(seed)
    windows = _windows_by_word(labelled)
    small = [word for word, found in windows.items() if _is_small(word, found)]
    content = [word for word, found in windows.items() if _is_content(word, found)]
    mixed: list[LabelledLatent] = []
    for number in range(n if small else 0):
        word = small[random.integers(len(small))]
        mixed.append(_latent(FUNCTION_WORDS, number, _marked(word, windows[word], random)))
    for number in range(n if labelled else 0):
        if content and number % 2:
            word = content[random.integers(len(content))]
            mixed.append(_latent(NONE, number, _marked(word, windows[word], random)))
        else:
            mixed.append(_latent(NONE, number, _any_words(labelled, random)))
    return tuple(latent for latent in mixed if latent.subject.windows)


def _windows_by_word(labelled: Sequence[LabelledLatent]) -> dict[str, list[_Found]]:
    """Word in lower case -> windows that have it as a token."""
    windows: dict[str, list[_Found]] = defaultdict(list)
    for latent in labelled:
        for window in latent.subject.windows:
            for word in dict.fromkeys(_words(window)):
                windows[word].append(_Found(latent.category, window))
    return windows


def _words(window: Example) -> list[str]:
    """Each content token as a word; those that are only spaces are left out."""
    return [
        plain_word(token.strip())
        for token, role in zip(window.tokens, window.roles, strict=True)
        if role in CONTENT_ROLES and token.strip()
    ]


def _is_small(word: str, found: Sequence[_Found]) -> bool:
    is_small = word in GRAMMAR_WORDS or word in SPEECH_WORDS or word in _MARKS
    return is_small and len(found) >= MIN_WINDOWS


def _is_content(word: str, found: Sequence[_Found]) -> bool:
    return _has_content(word) and len({each.category for each in found}) >= MIN_CATEGORIES


def _has_content(word: str) -> bool:
    is_small = word in GRAMMAR_WORDS or word in SPEECH_WORDS
    return word.isalpha() and word.isascii() and len(word) > 2 and not is_small


def _marked(word: str, found: Sequence[_Found], random: np.random.Generator) -> list[Example]:
    """Windows with the word alone active, with random shares of the categories."""
    counts = Counter(each.category for each in found)
    categories = sorted(counts)
    shares = np.minimum(random.dirichlet(np.full(len(categories), CONCENTRATION)), MAX_SHARE)
    by_category = dict(zip(categories, shares, strict=True))
    weights = np.array([by_category[one.category] / counts[one.category] for one in found])
    n = min(N_WINDOWS, int((weights > 0).sum()))
    chosen = random.choice(len(found), size=n, replace=False, p=weights / weights.sum())
    return [_active(found[row].window, word) for row in chosen]


def _any_words(labelled: Sequence[LabelledLatent], random: np.random.Generator) -> list[Example]:
    """A window of each of several latents, with any content word active."""
    windows = []
    n = min(N_WINDOWS, len(labelled))
    for row in random.choice(len(labelled), size=n, replace=False):
        own = labelled[row].subject.windows
        window = own[random.integers(len(own))]
        words = [word for word in _words(window) if _has_content(word)]
        if words:
            windows.append(_active(window, words[random.integers(len(words))]))
    return windows


def _active(window: Example, word: str) -> Example:
    values = tuple(float(plain_word(token.strip()) == word) for token in window.tokens)
    return replace(window, activations=values)


def _latent(category: str, number: int, windows: list[Example]) -> LabelledLatent:
    record = LatentRecord(number, "mixed", number, tuple(windows))
    return LabelledLatent(f"mixed-{category}-{number}", category, record)
