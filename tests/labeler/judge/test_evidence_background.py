"""Rates of words in other text of the same roles and languages."""

from __future__ import annotations

import pytest
from judge_subjects import window

from labeler.judge.background import NO_TEXT, UNSEEN, UNSEEN_UNITS, Background
from labeler.judge.distinctive import standard_score
from labeler.judge.evidence_statistics import LanguageIdentifier

ENGLISH = "The bread is on the table and the soup is hot today"
GERMAN = "Das Brot liegt auf dem Tisch und die Suppe ist heute hei\u00df"


@pytest.fixture(scope="module")
def background() -> Background:
    texts = [window(ENGLISH, "assistant")] * 60 + [window(GERMAN, "user")] * 60
    return Background.of(texts, LanguageIdentifier())


def test_rates_are_those_of_the_mixture_of_roles_and_languages(background: Background) -> None:
    english, german = ("assistant", "en"), ("user", "de")
    assert background.sizes == {english: 720, german: 720}
    in_english, in_german = background.rates({english: 1.0}), background.rates({german: 1.0})
    half = background.rates({english: 0.5, german: 0.5})
    assert in_english("word the") > 3 * in_german("word the") > 0
    assert in_german("word das") > 3 * in_english("word das") > 0
    for feature in ("word the", "phrase on the", "kind first words of sentences", "word unseen"):
        mean = (in_english(feature) + in_german(feature)) / 2
        assert half(feature) == pytest.approx(mean)


def test_a_small_group_has_the_rates_of_all_text(background: Background) -> None:
    unknown = background.rates({("plain", "fr"): 1.0})
    assert unknown("word the") == pytest.approx((180 + UNSEEN) / (1440 + UNSEEN_UNITS))


def test_letters_are_counted_in_whichever_words_hold_them(background: Background) -> None:
    rate = background.rates({("user", "de"): 1.0})
    assert rate("letters ei") == pytest.approx((60 + UNSEEN) / (1440 + UNSEEN_UNITS))
    assert rate("letters zzz") < 0.001


def test_shares_of_roles_and_languages(background: Background) -> None:
    assert background.role_share("assistant") == pytest.approx(720 / 1440)
    assert background.language_share("de") == pytest.approx(720 / 1440)
    assert NO_TEXT.role_share("user") == NO_TEXT.language_share("en") == 0


def test_without_text_everything_is_rare_and_the_hash_knows_the_text(
    background: Background,
) -> None:
    assert 0 < NO_TEXT.rates({("plain", None): 1.0})("word the") < 0.001
    other = Background.of([window(ENGLISH)], LanguageIdentifier())
    assert len({background.fingerprint, other.fingerprint, NO_TEXT.fingerprint}) == 3


def test_the_standard_score_grows_with_the_difference_and_the_evidence() -> None:
    same = standard_score(0.12, 12, 0.01, 0.01)
    assert abs(same) < 0.2
    assert standard_score(3, 12, 0.01, 0.01) < standard_score(8, 12, 0.01, 0.01)
    assert standard_score(3, 12, 0.01, 0.01) < standard_score(6, 24, 0.01, 0.01)
    # y = 6, prior 10 * 0.01, n = 12: log(6.1 / 15.9) - log(0.01 / 0.99), times sqrt(6.1)
    assert standard_score(6, 12, 0.01, 0.01) == pytest.approx(8.983, abs=0.01)
