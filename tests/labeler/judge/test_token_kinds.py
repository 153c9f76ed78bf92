from __future__ import annotations

import pytest
from judge_subjects import window

from labeler.judge.token_kinds import active_tokens


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("walk <<of>> life", "grammar"),
        ("well, <<I'm>> sorry", "speech"),
        ("we don\u2019t mind, <<don\u2019t>> you", "speech"),
        ("at <<10>> o'clock", "number"),
        ("one<<,>> two", "mark"),
        ("<<##>> Title", "layout"),
        ("x <<{>> y", "code"),
        ("der <<schöne>> Tag", "script"),
        ("my friend <<Anna>> came", "name"),
        ("<<Carrots>> keep for weeks", "start"),
        ("It rained. <<Carrots>> keep", "start"),
        ("the <<carrots>> keep", "content"),
    ],
)
def test_the_kind_of_an_active_token(text: str, kind: str) -> None:
    shares = active_tokens(window(text)).by_kind
    assert max(shares, key=lambda name: shares[name]) == kind


def test_shares_sum_to_one_and_words_are_lower_case() -> None:
    shares = active_tokens(window("<<The>> carrots and <<the>> peas of <<Anna>>"))
    assert sum(shares.by_kind.values()) == pytest.approx(1)
    assert shares.by_word == pytest.approx({"the": 2 / 3, "anna": 1 / 3})
    assert shares.by_content_word == pytest.approx({"anna": 1 / 3})


def test_an_example_without_activation_has_no_shares() -> None:
    assert active_tokens(window("nothing is active")).by_kind == {}
