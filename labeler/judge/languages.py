"""The language of a text, where the text is long enough to tell."""

from __future__ import annotations

from functools import cached_property
from typing import Any

LANGUAGE_NAMES = {
    "ar": "Arabic", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German",
    "el": "Greek", "en": "English", "es": "Spanish", "fa": "Persian", "fi": "Finnish",
    "fr": "French", "he": "Hebrew", "hi": "Hindi", "hu": "Hungarian", "id": "Indonesian",
    "it": "Italian", "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "no": "Norwegian",
    "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sv": "Swedish",
    "th": "Thai", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip
"""Languages that are told apart; with fewer of them a short text is identified more surely."""
MIN_BYTES = 20
"""Shortest text in UTF-8 bytes of letters: half a dozen Chinese characters, three words."""
MIN_CONFIDENCE = 0.8
"""Probability below which a text has no known language: code, numbers, lists of names."""

SENTENCE_LETTERS, CERTAINTY = 30, 0.95
"""Letters of a sentence, and probability, from which its language counts as certain."""


class LanguageIdentifier:
    """Naive Bayes over byte n-grams (py3langid, after Lui and Baldwin 2012)."""

    def identify(self, text: str) -> str | None:
        """ISO 639-1 code of the text's language; None where it is short or unclear."""
        letters = "".join(character for character in text if character.isalpha())
        if len(letters.encode("utf-8", "ignore")) < MIN_BYTES:
            return None
        language, confidence = self._model.classify(text)
        return str(language) if confidence >= MIN_CONFIDENCE else None

    def certain_language(self, text: str) -> str | None:
        """The language of a sentence, where hardly any doubt is left; None otherwise."""
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
