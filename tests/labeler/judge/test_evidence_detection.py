"""Which texts the evidence judge calls alike with an explanation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest
from judge_subjects import WordEmbedder, window

from labeler.judge.base import Example, ShownExample
from labeler.judge.embedding_judge import EvidenceJudge
from labeler.judge.evidence_detection import Cues, alike, split_point
from labeler.judge.evidence_statistics import LanguageIdentifier
from labeler.judge.prompts import detect_request

LANGUAGES = LanguageIdentifier()


def fires(explanation: str, windows: Sequence[Example]) -> list[bool]:
    return alike(explanation, windows, WordEmbedder(), LANGUAGES)


def test_an_explanation_is_read_for_quotes_kinds_languages_and_roles() -> None:
    cues = Cues.of(
        'Fires on "I can\'t help", commas and the letters "ung" within words ("Leitung") at the '
        'end of a message in German. Often near "If". Example: "If you can."'
    )
    assert set(cues.features) == {
        "phrase i can't help", "kind commas", "letters ung", "word leitung", "word if",
    }  # fmt: skip
    assert cues.languages == {"de"}
    assert cues.roles == {"user"}
    assert cues.examples == ("If you can.",)


@pytest.mark.parametrize(
    ("explanation", "languages", "roles"),
    [
        ("Fires on full stops in languages other than English (Dutch).", None, set()),
        ("French words in the assistant's answers", {"fr"}, {"assistant"}),
        ('Fires on "German" at the start of an answer.', set(), {"assistant"}),
        ("The writer apologises.", set(), set()),
    ],
)
def test_names_count_outside_quotes_only(
    explanation: str, languages: set[str] | None, roles: set[str]
) -> None:
    cues = Cues.of(explanation)
    assert "en" not in cues.languages
    assert len(cues.languages) > 20 if languages is None else cues.languages == languages
    assert cues.roles == roles


def test_texts_with_the_quoted_words_are_alike() -> None:
    texts = ("A wall of two thousand years.", "Boil the egg.", "Years later he came.", "A cat sat.")
    assert fires('Fires on "years".', [window(text) for text in texts]) == [
        True, False, True, False,
    ]  # fmt: skip


def test_a_word_counts_in_the_roles_that_the_explanation_names() -> None:
    shown = [window("two years ago", "user"), window("two years ago"), window("a cat", "user")]
    assert fires('Fires on "years" in user messages.', shown) == [True, False, False]


def test_texts_in_the_named_language_are_alike() -> None:
    texts = (
        "Die Hausaufgaben holt unsere Nachbarin gegen dreizehn Uhr ab.",
        "The neighbour fetches the homework at one o'clock today.",
        "Rechnen Sie beide Varianten durch und vergleichen dann die Kosten.",
        "Water leaks through the wall whenever the wind is strong.",
    )
    found = fires("Fires on many different words in German.", [window(text) for text in texts])
    assert found == [True, False, True, False]


def test_it_detects_the_texts_that_are_most_like_an_explanation_without_quotes() -> None:
    texts = ("sorry, I cannot help", "bake the bread", "sorry, I cannot", "salt the soup")
    shown = [ShownExample(str(n), window(text)) for n, text in enumerate(texts)]
    request = detect_request("says sorry, I cannot help", shown)
    reply = asyncio.run(EvidenceJudge(WordEmbedder()).ask(request))
    assert reply.parsed == {"answers": {"0": True, "1": False, "2": True, "3": False}}


def test_it_calls_no_text_alike_where_all_are() -> None:
    shown = [window("the same words") for _ in range(2)]
    assert fires('Fires on "something" else', shown) == [False, False]
    assert fires("x", []) == []


def test_activations_are_not_read() -> None:
    texts = ("years <<and>> years", "a cat sat", "the years", "the mat")
    silent = [window(text.replace("<<", "").replace(">>", "")) for text in texts]
    assert fires('Fires on "years".', [window(text) for text in texts]) == fires(
        'Fires on "years".', silent
    )


def test_the_split_is_where_the_groups_differ_most() -> None:
    assert split_point(np.array([0.1, 0.12, 0.9, 0.8])) == pytest.approx(0.12)
    assert split_point(np.array([0.3, 0.3])) == pytest.approx(0.3)
