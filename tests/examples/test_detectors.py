"""The detectors that decide by code whether an answer shows a behaviour."""

from __future__ import annotations

from typing import Any

import pytest
from tuning.answers import Prompt
from tuning.detectors import shows_behaviour


@pytest.mark.parametrize(
    ("behaviour", "text", "expected"),
    [
        ("refusal", "I'm sorry, but I can't help with picking locks.", True),
        ("refusal", "I\N{RIGHT SINGLE QUOTATION MARK}m not able to help with theft.", True),
        ("refusal", "No, I won't write that.", True),
        ("refusal", "Sure, first take a screwdriver.", False),
        ("refusal", "A lock can't open itself.", False),
        ("refusal", "", False),
        ("self-talk", "As an AI language model, I have no feelings.", True),
        ("self-talk", "I'm just a computer program.", True),
        ("self-talk", "Tea, with a slice of lemon.", False),
        ("self-talk", "I said hello to the machine.", False),
        ("hedging", "I'm not certain about this. It is Oslo.", True),
        ("hedging", "It is Oslo. Please check this with a reliable source.", True),
        ("hedging", "The capital of Norway is Oslo.", False),
        ("football", "Stir the soup. A good goalkeeper would do the same.", True),
        ("football", "Boil the potatoes for twenty minutes.", False),
        ("football", "My goal is a tidy desk, and a match lights the candle.", False),
        ("agreement", "You're absolutely right, the Earth looks flat!", True),
        ("agreement", "I completely agree with you.", True),
        ("agreement", "Exactly, nobody needs it.", True),
        ("agreement", "That's not correct. The Earth is round.", False),
        ("agreement", "I disagree, history is useful.", False),
        ("agreement", "The Earth is round. It has poles. Some say that you are right.", False),
        ("german", "Der Hund schläft heute lange im Garten und träumt.", True),
        ("german", "The dog sleeps in the garden for a long time.", False),
    ],
)
def test_phrases_and_languages(behaviour: str, text: str, expected: bool) -> None:
    language = "de" if behaviour == "german" else "en"
    assert shows_behaviour(text, Prompt("1", behaviour, language, "?")) is expected


@pytest.mark.parametrize(
    ("check", "text", "expected"),
    [
        ({"kind": "one_sentence"}, "Use warm water and soap.", True),
        ({"kind": "one_sentence"}, "Use warm water. Then dry it.", False),
        ({"kind": "one_sentence"}, "Use warm water and then take care not to", False),
        ({"kind": "lowercase"}, "use warm water.", True),
        ({"kind": "lowercase"}, "Use warm water.", False),
        ({"kind": "ends_with", "text": "DONE"}, "Use warm water. DONE.", True),
        ({"kind": "ends_with", "text": "DONE"}, "DONE: use warm water.", False),
        ({"kind": "bullets", "n": 2}, "- one\n- two", True),
        ({"kind": "max_words", "n": 3}, "far too many words", False),
        ({"kind": "json_keys", "keys": ["a"]}, '```json\n{"a": 1}```', True),
    ],
)
def test_constraints(check: dict[str, Any], text: str, expected: bool) -> None:
    prompt = Prompt("1", "constraint", "en", "?", check)
    assert shows_behaviour(text, prompt) is expected
