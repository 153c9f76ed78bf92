"""Statistics of a latent's evidence: words, roles, position in the turn, languages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from labeler.judge.base import CONTENT_ROLES, Example, LatentRecord
from labeler.judge.rendering import Turn, content_text, joined, turns

STRONG_SHARE = 0.5
"""A token fires strongly where its activation exceeds this share of the example's peak."""
MIN_WORDS = 4
"""Sentences with fewer words are joined with their neighbours."""
_SENTENCE_END = re.compile(r"[.!?\u2026]+[\"')\]\u201d\u2019]*(?=\s)|[\u3002\uff01\uff1f]+|\n+")
_LETTER = re.compile(r"[^\W_]")


@dataclass(frozen=True)
class Snippet:
    """A text on which a latent fires."""

    text: str
    """Verbatim content."""
    role: str
    """Role of the turn in which it fires most."""
    peak: float


def snippet(window: Example) -> Snippet | None:
    """The sentences of a turn from the first to the last strong token, as far as the example shows.

    Whole sentences, because the categories' prototypes are sentences too. None where no content
    token fires, or where the text has no letter or digit.
    """
    turn = peak_turn(window)
    if turn is None:
        return None
    strong = strong_positions(window, turn)
    whole = joined(window, turn.positions)
    first = len(joined(window, range(turn.positions[0], strong[0])))
    last = len(joined(window, range(turn.positions[0], strong[-1] + 1)))
    first += len(window.tokens[strong[0]]) - len(window.tokens[strong[0]].lstrip())
    text = _sentences(whole, first, last)
    if _is_short(text):
        text = _neighbourhood(window, turn)
    return Snippet(text, turn.role, window.peak) if _LETTER.search(text) else None


def peak_turn(window: Example) -> Turn | None:
    """The turn with the strongest content token; None where none fires."""
    best = max(turns(window), key=lambda turn: _peak(window, turn), default=None)
    return best if best is not None and _peak(window, best) > 0 else None


def strong_positions(window: Example, turn: Turn) -> list[int]:
    """Positions in a turn whose activation exceeds the strong share of its peak."""
    threshold = STRONG_SHARE * _peak(window, turn)
    return [position for position in turn.positions if window.activations[position] >= threshold]


def _peak(window: Example, turn: Turn) -> float:
    return max(window.activations[turn.positions.start : turn.positions.stop])


def _sentences(text: str, first: int, last: int) -> str:
    """The sentences with the characters `first` to `last`, extended where too short."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    bounds = sorted({0, *ends, len(text)})
    begin = max(bound for bound in bounds if bound <= min(first, len(text)))
    after = [bound for bound in bounds if bound >= last and bound > begin] or [len(text)]
    chosen = text[begin : after[0]].strip()
    for bound in after[1:]:
        if not _is_short(chosen):
            return chosen
        chosen = text[begin:bound].strip()
    if _is_short(chosen):
        begin = max((bound for bound in bounds if bound < begin), default=0)
        chosen = text[begin : after[-1]].strip()
    return chosen


def _is_short(text: str) -> bool:
    """Whether it has too few words; text without spaces is measured in characters."""
    return len(text.split()) < MIN_WORDS and len(text) < 4 * MIN_WORDS


def _neighbourhood(window: Example, turn: Turn) -> str:
    """The turn with the one before and the one after it."""
    all_turns = turns(window)
    at = all_turns.index(turn)
    near = all_turns[max(0, at - 1) : at + 2]
    return "\n".join(joined(window, each.positions).strip() for each in near).strip()


ENOUGH_TOP_WINDOWS = 6
"""Fewest strongest examples; with fewer, those of the lower quantiles are read as well."""


@dataclass(frozen=True)
class Reading:
    """The examples with readable text that the judge uses, one per text."""

    windows: tuple[Example, ...]
    snippets: tuple[Snippet, ...]


def read(subject: LatentRecord) -> Reading:
    """Examples of the explain half on which the latent fires, each text once."""
    shown = [window for window in subject.windows if window.split == "explain"]
    top = [window for window in shown if window.kind == "top"]
    if len(top) < ENOUGH_TOP_WINDOWS:
        top += [window for window in shown if window.kind == "quantile"]
    pieces: dict[str, tuple[Example, Snippet]] = {}
    for window in top:
        piece = snippet(window)
        if piece is not None:
            pieces.setdefault(piece.text, (window, piece))
    return Reading(
        tuple(window for window, _ in pieces.values()),
        tuple(piece for _, piece in pieces.values()),
    )


ENGLISH = "en"
LANGUAGE_NAMES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""Languages to choose from; with fewer of them short texts are identified more reliably."""
MIN_BYTES = 20
"""Shortest text in UTF-8 bytes of letters: half a dozen Chinese characters, three words."""
MIN_CONFIDENCE = 0.8
"""Probability below which the language is unknown: code, numbers, lists of names."""

SENTENCE_LETTERS, CERTAINTY = 30, 0.95
"""Letters of a sentence, and probability, from which its language counts as certain."""


class LanguageIdentifier:
    """Naive Bayes over byte n-grams (py3langid, after Lui and Baldwin 2012)."""

    def identify(self, text: str) -> str | None:
        """ISO 639-1 code of the text's language; None where it is short or unclear."""
        letters = "".join(filter(str.isalpha, text))
        if len(letters.encode("utf-8", "ignore")) < MIN_BYTES:
            return None
        language, confidence = self._model.classify(text)
        return str(language) if confidence >= MIN_CONFIDENCE else None

    def certain_language(self, text: str) -> str | None:
        """The language of a sentence where it is certain; else None."""
        if sum(character.isalpha() for character in text) < SENTENCE_LETTERS:
            return None
        language, confidence = self._model.classify(text)
        return str(language) if confidence >= CERTAINTY else None

    @cached_property
    def _model(self) -> Any:
        from py3langid import langid

        model = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
        model.set_languages(sorted(LANGUAGE_NAMES))
        return model


EDGE_TOKENS = 8
"""Tokens at either end of a turn that count as its start or end."""
LONGEST_WORD = 24
"""Most letters of a word; a longer run is text without spaces and is read token by token."""
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


def foreign_share(windows: Sequence[Example], languages: LanguageIdentifier) -> float:
    """Share of the examples that are known not to be in English."""
    return share_not_english([language_of(window, languages) for window in windows])


def share_not_english(spoken: Sequence[str | None]) -> float:
    """Share of at least one language that is known, and not English; None is an unknown one."""
    return sum(language not in (None, ENGLISH) for language in spoken) / len(spoken)


def edge_of_turn(window: Example) -> str | None:
    """`start`, `middle` or `end` of the turn; None where the example does not show its edges."""
    turn = peak_turn(window)
    if turn is None:
        return None
    strongest = max(strong_positions(window, turn), key=lambda at: (window.activations[at], -at))
    before, after = turn.positions[0] - 1, turn.positions[-1] + 1
    shows_start = before >= 0 and window.roles[before] not in CONTENT_ROLES
    shows_end = after < len(window.roles) and window.roles[after] not in CONTENT_ROLES
    if shows_start and strongest - before <= EDGE_TOKENS:
        return "start"
    if shows_end and after - strongest <= EDGE_TOKENS:
        return "end"
    return "middle"


def words_by_token(window: Example, turn: Turn) -> dict[int, tuple[int, str]]:
    """Position of each token of a turn -> start and text of its word."""
    text = joined(window, turn.positions)
    spans = [match.span() for match in _WORD.finditer(text)]
    pieces: dict[int, tuple[int, str]] = {}
    begin = 0
    for position in turn.positions:
        token = window.tokens[position]
        end = begin + len(token)
        inside = begin + len(token) - len(token.lstrip())
        span = next((span for span in spans if span[0] < end and span[1] > inside), None)
        if span is not None and span[1] - span[0] <= LONGEST_WORD:
            pieces[position] = (span[0], text[span[0] : span[1]])
        else:
            pieces[position] = (begin, _shown(token))
        begin = end
    return pieces


def _shown(token: str) -> str:
    stripped = token.strip()
    if stripped:
        return stripped
    return "line break" if "\n" in token else "space"


def language_of(window: Example, languages: LanguageIdentifier) -> str | None:
    """Language of the turn in which the latent fires most, else of the whole content."""
    turn = peak_turn(window)
    if turn is not None:
        language = languages.identify(joined(window, turn.positions))
        if language is not None:
            return language
    return languages.identify(content_text(window))
