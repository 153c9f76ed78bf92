"""Whether a judge's quote is in what it was shown."""

from __future__ import annotations

from dataclasses import dataclass

from labeler.judge.base import LatentSubject
from labeler.judge.rendering import escaped
from labeler.judge.windows import content_text


@dataclass(frozen=True)
class CheckedQuote:
    """A quote as it is kept: words that were found, or the fact that they were not."""

    text: str | None
    found: bool | None
    """None where the judge quoted nothing."""


def check_quote(
    quote: str, subject: LatentSubject | None, explanation: str | None = None
) -> CheckedQuote:
    """Look for a quote, verbatim but for white space, in the evidence and in the explanation.

    It may be written as the prompt shows text, with escapes and without the marks of firing tokens.
    """
    wanted = " ".join(quote.split())
    if not wanted:
        return CheckedQuote(None, None)
    shown = [content_text(window) for window in subject.windows] if subject is not None else []
    if explanation is not None:
        shown.append(explanation)
    for text in shown:
        for form in (text, escaped(text)):
            if wanted in " ".join(form.split()):
                return CheckedQuote(quote, True)
    unmarked = wanted.replace("<<", "").replace(">>", "")
    if unmarked != wanted:
        return check_quote(unmarked, subject, explanation)
    return CheckedQuote(None, False)
