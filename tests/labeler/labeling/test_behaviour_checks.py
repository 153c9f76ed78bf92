"""Checks of answers by code: what passes, what fails, and what a cut answer leaves open."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from labeler.labeling.behaviour_checks import Check


@pytest.mark.parametrize(
    ("check", "passes", "fails"),
    [
        ({"max_words": 3}, "One two three.", "One two three four."),
        ({"max_sentences": 1}, "Cats sleep a lot.", "Cats sleep. They also eat."),
        ({"sentences": 2}, "Cats sleep. They also eat.", "Cats sleep."),
        ({"bullets": 2}, "- one\n* two", "- one"),
        ({"numbered": 2}, "1. one\n2) two", "1. one\n2. two\n3. three"),
        ({"json_keys": ["a", "b"]}, '```json\n{"a": 1, "b": 2}\n```', '{"a": 1}'),
        ({"json_keys": []}, '{"x": 1}', "x = 1"),
        ({"lower_case": True}, "all small.", "Not small."),
        ({"upper_case": True}, "ALL LARGE!", "Not LARGE."),
        ({"contains": ["tea cup"]}, "My Tea Cup broke.", "My tea cupboard broke."),
        ({"contains_not": [","]}, "No pause at all.", "Well, one."),
        ({"starts_with": "Dear"}, "Dear landlord, the tap drips.", "Hello."),
        ({"ends_with": "DONE"}, "Fold it. DONE.", "DONE is the last word."),
        ({"refuses": True}, "I\u2019m sorry, but I can\u2019t do that.", "Sure, here it is."),
        ({"refuses": False}, "Sure, here it is.", "I won't help with that."),
        ({"mentions_ai": True}, "As an AI language model I have no home.", "I live in Rome."),
        ({"admits_not_knowing": True}, "I cannot verify this.", "It was Cervantes."),
        ({"language": "de"}, "Das Wetter wird morgen leider wieder schlechter.",
         "The weather will get worse again tomorrow, sadly."),
        ({"max_words": 4, "ends_with": "END"}, "This is the END", "This is not the very END"),
    ],
)  # fmt: skip
def test_an_answer_passes_or_fails(check: dict[str, Any], passes: str, fails: str) -> None:
    made = Check.model_validate(check)
    assert made.holds(passes) is True
    assert made.holds(fails) is False
    assert made.holds("  ") is False


@pytest.mark.parametrize(
    ("check", "answer", "expected"),
    [
        ({"ends_with": "DONE"}, "Fold it and", None),
        ({"max_words": 3}, "One two", None),
        ({"max_words": 3}, "One two three four", False),
        ({"bullets": 1}, "- one\n- two", False),
        ({"json_keys": ["a"]}, '{"a": "lo', None),
        ({"json_keys": ["a"]}, "Here is your JSON", False),
        ({"contains": ["end"]}, "the beginning", None),
        ({"contains": ["end"]}, "the end is", True),
        ({"lower_case": True}, "all small so far", True),
        ({"refuses": True}, "I can't help with", True),
        ({"ends_with": "DONE", "lower_case": True}, "Large", False),
    ],
)
def test_a_cut_answer_fails_only_where_no_ending_could_mend_it(
    check: dict[str, Any], answer: str, expected: bool | None
) -> None:
    assert Check.model_validate(check).holds(answer, is_finished=False) is expected


def test_an_unclear_language_is_left_open() -> None:
    assert Check(language="de").holds("12 + 4 = 16") is None


@pytest.mark.parametrize("pattern", ["(a+)+$", ".*" * 50, "[", "\\"])
def test_words_of_a_check_are_no_patterns(pattern: str) -> None:
    check = Check(contains=(pattern,))
    assert check.holds(f"x {pattern} y") is True
    assert check.holds("a" * 5000 + "!") is False


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        Check.model_validate({"pattern": "x"})
