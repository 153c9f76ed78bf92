"""What can become of a latent whose label is asked for: the one list of outcomes.

Tables, views, the rule of the effective label, the report and the review pages are drawn from it;
a further outcome is a further row here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """One outcome of a label."""

    name: str
    title: str
    """Heading of its latents in the report."""
    short: str
    """The same in a list."""
    note: str
    """What a reader of the report should know of it."""
    meaning: str
    """Its column of v_coverage."""
    is_answer: bool = False
    """The judge said it: it can be accepted, carried to another version, and compared."""
    is_labelled: bool = False
    """It counts in the denominator of the shares."""
    is_of_one_request: bool = False
    """The server would say the same again: the request is asked once."""


OUTCOMES = (
    Outcome(
        "assigned", "In a category", "in a category", "", "latents with a category",
        is_answer=True, is_labelled=True,
    ),
    Outcome(
        "none", "In no category", "none fits",
        "No category of the taxonomy fits the explanation; it counts as labelled.",
        "latents that fit no category", is_answer=True, is_labelled=True,
    ),
    Outcome(
        "uninterpretable", "Uninterpretable", "uninterpretable",
        "No discernible meaning; it does not count as labelled.",
        "latents without a discernible meaning", is_answer=True,
    ),
    Outcome(
        "error", "Judge gave no usable answer", "judge failed",
        "The raw answer is in the table judge_call; it does not count as labelled.",
        "latents whose judge gave no usable answer",
    ),
    Outcome(
        "too_long", "Too long for the judge", "too long",
        "The request does not fit in the context of the judge's server, whose words are in the "
        "table judge_call; it does not count as labelled.",
        "latents whose request is too long for the judge's server", is_of_one_request=True,
    ),
    Outcome(
        "refused", "Refused by the judge", "refused",
        "The model or its server's filter refused the request, and its words are in the table "
        "judge_call; it does not count as labelled.",
        "latents that the judge, or its server's filter, refused", is_of_one_request=True,
    ),
    Outcome(
        "unlabelled", "Not labelled yet", "not labelled", "", "latents without a label",
    ),
)  # fmt: skip

BY_NAME = {outcome.name: outcome for outcome in OUTCOMES}
EFFECTIVE_OUTCOMES = tuple(BY_NAME)
LABEL_OUTCOMES = tuple(name for name in BY_NAME if name != "unlabelled")
"""Outcomes of a judge's label."""
LABELLED = tuple(outcome.name for outcome in OUTCOMES if outcome.is_labelled)
ANSWERS = tuple(outcome.name for outcome in OUTCOMES if outcome.is_answer)
FAILED = tuple(name for name in LABEL_OUTCOMES if name not in ANSWERS)
"""Labels without an answer: one of these holds only where there is no label with one."""
OF_ONE_REQUEST = tuple(outcome.name for outcome in OUTCOMES if outcome.is_of_one_request)
"""Also statuses of a call: what one request can meet on its own, and never asked again."""
WITHOUT_CATEGORY = tuple(name for name in BY_NAME if name != "assigned")
WITHOUT_ANSWER = (*FAILED, "unlabelled")
"""Outcomes that need a look first."""
ENDED_STATUSES = ("ok", *OF_ONE_REQUEST)
"""Statuses of calls that are not made again."""


def failed_outcome(call_status: str) -> str:
    """The outcome of a label whose call ended without an answer."""
    return call_status if call_status in OF_ONE_REQUEST else "error"


def sql_list(names: Iterable[str]) -> str:
    """The names as a list of SQL."""
    return f"({', '.join(repr(name) for name in names)})"
