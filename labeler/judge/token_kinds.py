"""What kind of token a latent fires on: small words, numbers, names, marks, layout, or content."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from labeler.judge.base import Example
from labeler.judge.evidence_statistics import words_by_token
from labeler.judge.rendering import turns

KINDS = (
    "grammar", "speech", "number", "mark", "layout", "code", "script", "piece", "start", "name",
    "content",
)  # fmt: skip
"""Kinds of tokens: see `_kind`. `script` is a token with letters beyond ASCII."""
CONTENT_KINDS = frozenset({"content", "name", "start", "piece"})
SMALL_KINDS = frozenset({"grammar", "speech", "mark", "number"})
"""Kinds that any text is made of."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SPEECH_WORDS = _words(
    """
    i i'm i've i'd i'll me my myself you your you're you've no not can can't cannot could
    couldn't may might don't won't wouldn't shouldn't should doesn't didn't isn't aren't am
    if
    """
)
"""Words by which a speaker speaks of herself, addresses, denies, permits or hedges."""
GRAMMAR_WORDS = _words(
    """
    a about above across after again against all almost also although always among an and
    another any are around as at be because been before being below between both but by did
    do does doing done down during each either else enough even ever every few for from
    further get give go had has have having he he's hence her here hers herself him himself
    his how however in into is it it's its itself just least less let's made many more most
    much must neither never next nor now of off often on once one only onto or other others
    our ours ourselves out over own per perhaps put quite rather re same she she's since so
    some still such than that that's the their theirs them themselves then there there's
    these they they're this those though through throughout thus to together too toward
    towards under until up upon us very was wasn't we we'll we're we've well were weren't
    what what's when where whether which while who whole whom whose why will with within
    without would yes yet
    """
)
"""Articles, prepositions, pronouns, conjunctions, auxiliaries and adverbs of English."""
_LAYOUT_MARKS = frozenset("#*`|")
_CODE_MARKS = frozenset("{}[]()<>=;_\\/+&^%$@~")
_ENDS = ".!?:"


@dataclass(frozen=True)
class ActiveTokens:
    """What an example's activation lies on, as shares that sum to 1."""

    by_kind: Mapping[str, float]
    by_word: Mapping[str, float]
    """By the word in lower case that a token is part of."""
    by_content_word: Mapping[str, float]
    """The same, of tokens of CONTENT_KINDS alone."""


def active_tokens(window: Example) -> ActiveTokens:
    """Shares of the example's activation on content tokens, by kind and by word."""
    kinds: dict[str, float] = defaultdict(float)
    words: dict[str, float] = defaultdict(float)
    content: dict[str, float] = defaultdict(float)
    found = [each for each in _tokens(window) if each[2] > 0]
    total = sum(activation for _, _, activation in found) or 1.0
    for kind, word, activation in found:
        share = activation / total
        kinds[kind] += share
        words[word] += share
        if kind in CONTENT_KINDS:
            content[word] += share
    return ActiveTokens(dict(kinds), dict(words), dict(content))


def mean_shares(shares: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over examples of shares by name."""
    sums: dict[str, float] = defaultdict(float)
    for each in shares:
        for name, share in each.items():
            sums[name] += share / len(shares)
    return dict(sums)


def plain_word(word: str) -> str:
    """A word in lower case with a straight apostrophe."""
    return word.lower().replace("\u2019", "'")


def _tokens(window: Example) -> Iterator[tuple[str, str, float]]:
    """Kind, word and activation of each content token."""
    for turn in turns(window):
        pieces = words_by_token(window, turn)
        before, starts_sentence = " ", True
        for position in turn.positions:
            token = window.tokens[position]
            bare = token.strip()
            word = plain_word(pieces[position][1])
            starts_word = token[:1].isspace() or not before[-1:].isalnum()
            yield (
                _kind(bare, word, starts_word, starts_sentence),
                word,
                max(0.0, window.activations[position]),
            )
            starts_sentence = _ends_sentence(token, starts_sentence)
            before = token


def _ends_sentence(token: str, starts_sentence: bool) -> bool:
    """Whether a sentence starts after a token; marks and spaces keep what was before them."""
    bare = token.strip()
    if "\n" in token or bare[-1:] in tuple(_ENDS):
        return True
    return starts_sentence and not any(map(str.isalnum, bare))


def _kind(bare: str, word: str, starts_word: bool, starts_sentence: bool) -> str:
    """The kind of a token without its spaces, which is part of a word in lower case."""
    if not bare:
        return "layout"
    if any(map(str.isdigit, bare)):
        return "number"
    if not any(map(str.isalnum, bare)):
        if _LAYOUT_MARKS.intersection(bare):
            return "layout"
        return "code" if _CODE_MARKS.intersection(bare) else "mark"
    if word in SPEECH_WORDS:
        return "speech"
    if word in GRAMMAR_WORDS:
        return "grammar"
    if not bare.isascii():
        return "script"
    if not starts_word:
        return "piece"
    if bare[0].isupper():
        return "start" if starts_sentence else "name"
    return "content"
