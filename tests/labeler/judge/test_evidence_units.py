"""Text as units, and what can be told of them."""

from __future__ import annotations

import pytest
from judge_subjects import window

from labeler.judge.base import Example
from labeler.judge.evidence_units import (
    KINDS,
    Unit,
    features_of,
    folded_words,
    occurrences,
    phrases_of,
    units_of,
)


def units(text: str) -> list[Unit]:
    ((_, found),) = units_of(window(text))
    return found


def test_a_turn_is_words_numbers_marks_and_line_breaks() -> None:
    texts = [unit.text for unit in units("I don\u2019t know 1,001 ways\u2026\n\n```py")]
    assert texts == ["I", "don\u2019t", "know", "1,001", "ways", "\u2026", "\n\n", "```", "py"]


def test_text_without_spaces_is_read_character_by_character() -> None:
    texts = [unit.text for unit in units("GPT\u5929\u6c14 ok")]
    assert texts == ["GPT", "\u5929", "\u6c14", "ok"]


def test_the_activation_of_a_token_is_shared_out_to_the_units_it_touches() -> None:
    each = Example("top", "explain", (" end", ").\n", " next"), ("plain",) * 3, (0.5, 3.0, 0.0))
    ((_, found),) = units_of(each)
    assert [(unit.text, unit.activation) for unit in found] == [
        ("end", 0.5), (")", 1.0), (".", 1.0), ("\n", 1.0), ("next", 0.0),
    ]  # fmt: skip


def test_pieces_of_a_word_count_as_the_word_and_the_strongest_is_kept() -> None:
    each = Example("top", "explain", (" un", "believ", "able"), ("plain",) * 3, (1.0, 2.0, 0.0))
    ((_, (unit,)),) = units_of(each)
    assert (unit.text, unit.activation, unit.letters) == ("unbelievable", 3.0, "believ")
    assert "letters believ" in features_of(unit)


def test_the_first_bytes_of_a_character_count_for_the_word_that_follows() -> None:
    each = Example("top", "explain", (" a", " ", "", "\u017c"), ("plain",) * 4, (0, 0, 2.0, 0))
    ((_, found),) = units_of(each)
    assert [(unit.text, unit.activation) for unit in found] == [("a", 0.0), ("\u017c", 2.0)]


def test_phrases_begin_and_end_with_a_word_on_one_line() -> None:
    found = [words for words, _, _ in phrases_of(units("No, I can't.\nHelp me"))]
    assert found == ["no , i", "no , i can't", "i can't", "help me"]


@pytest.mark.parametrize(
    ("text", "unit", "kinds"),
    [
        ("I can't stop", 1, {"negations"}),
        ("you said so", 0, {"second-person words", "first words of sentences"}),
        ("a cat. The end", 3, {"first words of sentences"}),
        ("in Paris today", 1, {"capitalised words"}),
        ("the NCMEC line", 1, {"capitalised words", "words in capitals"}),
        ("la caf\u00e9", 1, {"accented words"}),
        ("at 22:30 sharp", 1, {"numbers"}),
        ("so, then", 1, {"commas"}),
        ("x = 1", 1, {"code signs"}),
        ("one\ntwo", 1, {"line breaks"}),
        ("plain words here", 1, set()),
    ],
)
def test_kinds(text: str, unit: int, kinds: set[str]) -> None:
    assert units(text)[unit].kinds == kinds
    assert kinds <= set(KINDS)


def test_features_are_named_as_an_explanation_quotes_them() -> None:
    found = list(occurrences(units("You could, you COULD")))
    assert found.count("word you") == 2
    assert found.count(f"phrase {folded_words('You could')}") == 2
    assert "phrase could , you" in found
    assert "word ," not in found, "a mark with a kind is told by its kind"
